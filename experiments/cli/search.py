"""The `topformer-nas search` command."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import Accept, AsJson, Storage, bars_of, end_if_json, progress_bar, say, storage_flag
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.base import Evaluator
    from experiments.search.schedule import Schedule
    from experiments.search.study import Event, StudyResult
    from experiments.store.records import Trial
    from experiments.study_config import StudyConfig
    from experiments.trust.standing import Standing
    from experiments.workers.pool import Pool


def search(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's TOML file, or the name of one that comes with the tool.")
    ],
    storage: Storage = DEFAULT_URL,
    workers: Annotated[
        int, typer.Option(help="Processes that evaluate, one thread each. [default: all cores, or the whole cluster]")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Evaluate on this Ray cluster, or on one made for the study: local."),
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPUs that one evaluation reserves, with --ray.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs, or a share of one, likewise.")] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="STUDY is the name of a study of the store; its file is not needed.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Search on these images, whatever the file says.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Call the study so, whatever the file says.")] = None,
    extend: Annotated[
        int | None, typer.Option(metavar="TRIALS", help="Go on to so many trials in all, whatever the file says.")
    ] = None,
    accept: Accept = None,
    as_json: AsJson = False,
) -> None:
    """Run a search study, or go on where it was interrupted."""
    from experiments.search.assembly import build_evaluator, build_schedule, examined_data
    from experiments.search.forecast import forecast
    from experiments.search.opening import require_rows
    from experiments.search.study import run_study
    from experiments.store.store import Store
    from experiments.trust.standing import standing
    from latency_lut.table import find_table
    from search_space import require_anchors

    config = _study_config(study, storage, extend, resume=resume, data=data, name=name)
    evaluator = build_evaluator(config)
    if workers < 0:
        raise UserError(f"workers must be at least 1, not {workers}.")
    elsewhere = _cluster(ray, workers, cpus, gpus)
    space = config.search_space()
    if not Store.exists(storage):  # what would be refused anyway makes no database
        require_anchors(space, config.search.anchors)
        require_rows(config, find_table(config.latency.table))
    with progress_bar() as bar:
        say(examined_data(config, accept or (), lambda done, total: bar(done, total, "looking at labels")))
    with Store.open(storage, create=True) as store:
        ranking = standing(evaluator.fingerprint, store, space)
        schedule = build_schedule(config, evaluator, lambda scorer: standing(scorer.fingerprint, store, space))
        at_once = workers or (0 if ray is not None else os.cpu_count() or 1)
        say(_introduction(config, evaluator, ranking, schedule, at_once))
        if store.find_study(config.name) is None and (cost := forecast(config, evaluator, schedule, workers=at_once)):
            say([cost])
        with _progress(config.search.trials) as report:
            result = run_study(
                config,
                store,
                evaluator=evaluator,
                schedule=schedule,
                workers=workers or os.cpu_count() or 1,
                elsewhere=elsewhere,
                report=report,
            )
    end_if_json(as_json, result)
    _print(result, storage)


def _study_config(
    study: str, storage: str, extend: int | None, *, resume: bool, data: str | None, name: str | None
) -> "StudyConfig":
    """From its file, or from the store; extended to no fewer trials than the store's study has."""
    from experiments.store.store import Store, store_if_any
    from experiments.study_config import StudyConfig

    if resume and (data, name) != (None, None):
        raise UserError("--data and --name change a study's file; with --resume it is the store's, as it began.")
    if resume:
        with Store.open(storage, read_only=True) as store:
            config = store.study(study).config
    else:
        config = StudyConfig.load(study, dataset=data, name=name)
    if extend is None:
        return config
    with store_if_any(storage) as there:
        if there is not None and (known := there.find_study(config.name)) is not None:
            known.config.extended(extend)
    return config.extended(extend)


def _cluster(address: str | None, workers: int, cpus: float, gpus: float) -> "AbstractContextManager[Pool] | None":
    if address is not None:
        from experiments.workers.ray import Resources, ray_pool

        return ray_pool(address, workers, Resources(cpus=cpus, gpus=gpus))
    if (cpus, gpus) != (1.0, 0.0):
        raise UserError("--cpus and --gpus reserve parts of a Ray cluster; give --ray, too.")
    return None


def _introduction(
    config: "StudyConfig", evaluator: "Evaluator", ranking: "Standing", schedule: "Schedule", at_once: int
) -> list[str]:
    """What a study is, how far its order can be trusted, and what is left out or stands idle."""
    said = [
        f"study {config.name}: mIoU by {evaluator.fidelity} on {config.evaluator.dataset}, "
        f"latency by table {config.latency.table}",
        ranking.notice,
    ]
    said += [f"warning: {notice}" for notice in schedule.notices]
    if (there := config.search_space().size) < config.search.trials:
        said.append(f"note: the space holds {there} candidates; the study ends before {config.search.trials} trials.")
    size = config.search.batch_size
    if at_once > size and not config.search.asynchronous:
        said.append(
            f"note: a batch of {size} keeps no more of the {at_once} workers busy; raise search.batch_size, or set "
            "search.asynchronous = true."
        )
    return said


@contextmanager
def _progress(trials: int) -> Iterator[Callable[["Event"], None]]:
    """A line for each settled trial on standard error, and a bar for the study and for each of its confirmations."""
    from rich.progress import MofNCompleteColumn, TaskID

    with bars_of(MofNCompleteColumn()) as progress:
        bars: dict[str | None, TaskID] = {None: progress.add_task("evaluating", total=trials)}

        def report(event: "Event") -> None:
            if event.rung not in bars:
                bars[event.rung] = progress.add_task(str(event.rung), total=event.total)
            progress.update(bars[event.rung], completed=event.done, total=event.total)
            if event.trial is not None:
                progress.console.print(_settled(event.trial), highlight=False)
            if event.note:
                progress.console.print(event.note)

        yield report


def _settled(trial: "Trial") -> str:
    name = f"trial {trial.number}{f' ({trial.anchor})' if trial.anchor else ''}"
    latency = trial.latency
    priced = f"{latency.total_ms:.2f} ms ({latency.low_ms:.2f} to {latency.high_ms:.2f}, {latency.kind})"
    if trial.miou_pct is None:
        return f"{name}: failed, {trial.record.reason if trial.record else 'no record'}; {priced}"
    source = "from the store" if trial.from_cache else f"{trial.record.seconds:.0f} s" if trial.record else ""
    return f"{name}: mIoU {trial.miou_pct:.2f} %, {priced}, {source}"


def _print(result: "StudyResult", storage: str) -> None:
    command, labels = f"topformer-nas front {result.name}", () if result.idle else result.confirmed_by
    say((*result.notes, *(f"confirmed: {command} --fidelity '{label}'{storage_flag(storage)}" for label in labels)))
    print(f"see the front with: {command}{storage_flag(storage)}")
