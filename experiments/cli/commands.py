"""The commands of `topformer-nas`: parse, make one call, print. Heavy imports wait until a command needs them."""

import os
import sys
from typing import Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.architecture import describe
from experiments.cli.datasets import datasets
from experiments.cli.doctor import doctor
from experiments.cli.export import export
from experiments.cli.front import front
from experiments.cli.help import SETTINGS, Grouped, WholeSentences
from experiments.cli.latency import latency
from experiments.cli.paper import paper
from experiments.cli.scale import scale
from experiments.cli.search import search
from experiments.cli.studies import study_commands
from experiments.cli.supernet import supernet
from experiments.cli.terminal import Storage
from experiments.cli.training import evaluate, predict, recipes, train
from experiments.cli.trust import trust
from topformer.errors import UserError
from topformer.version import DISTRIBUTION, tool_version

app = typer.Typer(
    name="topformer-nas",
    help="Given a phone core and a latency budget: find, prove and export the TopFormer with the best mIoU.",
    cls=Grouped,
    context_settings=SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (train, evaluate, predict, recipes, search, front, describe, export, paper):
    app.command()(command)
for name, group in {
    "latency": latency,
    "datasets": datasets,
    "supernet": supernet,
    "trust": trust,
    "study": study_commands,
    "scale": scale,
    "doctor": doctor,
}.items():
    app.add_typer(group, name=name, cls=WholeSentences)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"{DISTRIBUTION} {tool_version()}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def dashboard(
    storage: Storage = DEFAULT_URL,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
) -> None:
    """Browse the Pareto front of every study in the browser."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise UserError(f"port {port} cannot be used, another program has it; choose one with --port.") from None
    command = [sys.executable, "-m", "dashboard", "--port", str(port), *(["--headless"] if headless else [])]
    os.execve(sys.executable, command, {**os.environ, "TOPFORMER_NAS_STORAGE": storage})  # signals reach it
