"""The `topformer-nas doctor` command and its parts: parse, make one call, print."""

import typer

from experiments import DEFAULT_URL
from experiments.cli import latency_analysis
from experiments.cli.terminal import AsJson, Storage, print_json

doctor = typer.Typer(
    help="What this installation has (versions, machine, store, tables); doctor latency: why a measurement differs.",
    invoke_without_command=True,
)
doctor.command("latency")(latency_analysis.doctor)


@doctor.callback()
def installation(context: typer.Context, storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """What this installation has: versions, machine, store, tables. Its part `latency` explains a measurement."""
    from experiments.views.installation import diagnose

    if context.invoked_subcommand is not None:
        return
    findings = diagnose(storage)
    if as_json:
        print_json(findings)
        return
    for topic, facts in findings.items():
        print(topic)
        for name, value in facts.items():
            print(f"  {name:22s} {value}")
