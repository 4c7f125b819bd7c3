"""The `topformer-nas doctor` command and its parts: parse, make one call, print."""

import typer

from experiments import DEFAULT_URL
from experiments.cli import latency_analysis
from experiments.cli.terminal import AsJson, Storage, end_if_json

doctor = typer.Typer(
    invoke_without_command=True,
)
doctor.command("latency")(latency_analysis.doctor)


@doctor.callback()
def installation(context: typer.Context, storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say what this installation has, or why a latency differs.

    Lists versions, machine, store and tables; its part `latency` explains a measurement of one's own.
    """
    from experiments.views.installation import diagnose

    if context.invoked_subcommand is not None:
        return
    findings = diagnose(storage)
    end_if_json(as_json, findings)
    for topic, facts in findings.items():
        print(topic)
        for name, value in facts.items():
            print(f"  {name:22s} {value}")
