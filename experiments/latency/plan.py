"""Which space does a name mean, which rows does a table need for it, and how does it get them?

From names on the command line to `latency_lut.measure`. Light to import: studies, runtimes and SciPy wait until called.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.front.lookup import task_of
from experiments.study_config import StudyConfig
from latency_lut.table import (
    SUFFIX,
    LatencyTable,
    MissingRows,
    NetworkCheck,
    require_table_name,
    user_tables_folder,
)
from search_space import PRESETS, SearchSpace, blocks, preset
from topformer.blocks import Block, candidate_blocks, decompose
from topformer.config import ANCHORS, Candidate, OutputKind, Task, TopFormerConfig, anchor_name
from topformer.errors import UserError
from topformer.progress import Progress, Say, silent, unsaid

RANDOM_NETWORKS = 12
"""Random networks that a table is calibrated on, besides the anchors."""
CALIBRATION_SEED = 0
_ENUMERABLE = 1000
_MOST_DRAWN = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to time."""

    blocks: tuple[Block, ...]
    networks: Mapping[str, Candidate]
    """Timed as wholes in the same run: the anchors, and random members of the space."""


def plan(spaces: Sequence[SearchSpace], archs: Iterable[TopFormerConfig], *, whole: bool) -> Plan:
    """Blocks of spaces, where these are wanted as a `whole`, and of architectures on their tasks; always with the
    anchors' own, on the tasks and at 150 classes. Random networks are of the first space."""
    own: list[Block] = []
    for space in spaces:
        tasks = (space.task, Task(image_size=space.task.image_size))
        own += blocks(space) if whole else ()
        own += [block for arch in ANCHORS.values() for task in tasks for block in decompose(arch, task)]
    own += [block for arch in archs for space in spaces for block in decompose(arch, space.task)]
    anchors = {name: Candidate(arch=arch, task=spaces[0].task) for name, arch in ANCHORS.items()}
    drawn = random_networks(spaces[0], RANDOM_NETWORKS, seed=CALIBRATION_SEED)
    return Plan(blocks=tuple(own), networks=anchors | drawn)


def spaces_of(
    *,
    study: str | None,
    space: str | None,
    size: str | None,
    classes: tuple[int, ...],
    output: OutputKind | None = None,
) -> tuple[SearchSpace, ...]:
    """A study's space, or a preset on every task asked for: quickstart where none is named, logits."""
    if study is not None:
        if space is not None or size is not None or classes or output is not None:
            raise UserError(
                "--study says which space, size, classes and output to measure: leave --space, --size, --classes and "
                "--output out."
            )
        return (StudyConfig.load(study).search_space(),)
    if space is not None and space not in PRESETS and space.endswith(".toml"):
        raise UserError(
            f"--space takes a space that comes with the tool ({', '.join(sorted(PRESETS))}), not {space!r}; what a "
            f"study's file needs is measured with --study {shlex.quote(space)}."
        )
    tasks = [task_of(None, size, count, output=output or "logits") for count in classes or (None,)]
    return tuple(preset(space or "quickstart", task=task) for task in tasks)


def saying_what_measures(arch: str, task: Task) -> AbstractContextManager[None]:
    """Errors about rows that an architecture lacks end with the options of `latency measure` that measure them."""
    return _needed_for("--arch", arch, *_task_options(task))


def saying_what_measures_space(name: str, task: Task) -> AbstractContextManager[None]:
    """Errors about rows that a space lacks end with the options of `latency measure` that measure them."""
    return _needed_for(*space_options(name, task))


def space_options(name: str, task: Task) -> tuple[str, ...]:
    """Options of `latency measure` that name a preset on this task, or a study's file, which says its own."""
    return ("--space", name, *_task_options(task)) if name in PRESETS else ("--study", name)


def network_name(label: str, task: Task) -> str:
    """A network for people: its ARCH@SIZE, which --measured takes, and what is unusual about the task."""
    height, width = task.image_size
    size = f"{height}" if height == width else f"{height}x{width}"
    classes = "" if task.num_classes == Task().num_classes else f", {task.num_classes} classes"
    output = "" if task.output == "logits" else f", {task.output}"
    return f"{label}@{size}{classes}{output}"


def _task_options(task: Task) -> tuple[str, ...]:
    output = () if task.output == "logits" else ("--output", task.output)
    return ("--size", task.pixels, "--classes", str(task.num_classes), *output)


@contextmanager
def _needed_for(*options: str) -> Iterator[None]:
    try:
        yield
    except MissingRows as error:
        raise error.needed_for(shlex.join(options)) from None


def make_table(
    *,
    device: str = "host",
    runtime: str | None = None,
    core: int | None = None,
    soc: str | None = None,
    study: str | None = None,
    space: str | None = None,
    archs: tuple[TopFormerConfig, ...] = (),
    size: str | None = None,
    classes: tuple[int, ...] = (),
    output: OutputKind | None = None,
    out: str | None = None,
    say: Say = unsaid,
    report: Progress = silent,
) -> tuple[LatencyTable, Path]:
    """Time the blocks that a study, a space or the anchors need, or count them on qemu; the table, and its file.

    `say` is told how much there is to count before that begins, and that a program is built, or waited for.

    Called again, it goes on where it was, and adds only the missing rows. Names are those of `latency measure`. Raises
    `UserError` where the table at `out` comes from another machine, runtime or timing.
    """
    from latency_lut.devices import device_named
    from latency_lut.payload.build import waits_for

    if device == "qemu" and (core is not None or soc is not None or runtime not in (None, "ncnn")):
        raise UserError("qemu counts ncnn's kernels for one core model: leave --core, --soc and --runtime out.")
    where = None if device == "qemu" else device_named(device, core=core, soc=soc)
    if out is None and device != "host":
        raise UserError(f"a table of {device} needs a name: choose one with --table.")
    path = table_path(out or "host")  # an illegal name is found before anything is timed
    spaces = spaces_of(study=study, space=space, size=size, classes=classes, output=output)
    wanted = plan(spaces, archs, whole=bool(study or space))
    if device != "host" and (waits := waits_for()):
        say(waits)
    if where is None:
        from experiments.latency.shipped import estimate

        return estimate(wanted, path, say=say, report=report), path
    from latency_lut.measure import measure_table
    from latency_lut.runtimes import runtime_named

    how = runtime_named(runtime or ("onnxruntime" if device == "host" else "ncnn"))
    where.require(how.info())
    table = measure_table(
        wanted.blocks,
        networks=wanted.networks,
        device=where,
        runtime=how,
        out=path,
        name=path.stem,
        progress=report,
    )
    return table, path


def table_path(out: str) -> Path:
    """A path as it is; a bare name is a table in the user's own folder. Raises `UserError` for an illegal name."""
    is_path = out.endswith(SUFFIX)
    require_table_name(Path(out).stem if is_path else out)
    return Path(out) if is_path else user_tables_folder() / f"{out}{SUFFIX}"


def fresh_checks(
    table: LatencyTable,
    networks: int,
    *,
    study: str | None = None,
    space: str | None = None,
    seed: int | None = None,
    size: str | None = None,
    classes: int | None = None,
    report: Progress = silent,
) -> tuple[NetworkCheck, ...]:
    """Random members of a space that the table has all rows of and was not calibrated on, timed on its device.

    Names are those of `latency validate`. Raises `UserError` where the table is not measured, is of another device or
    runtime than this one, or has the rows of too few members.
    """
    from latency_lut.devices import device_named
    from latency_lut.measure import check_networks
    from latency_lut.runtimes import runtime_named

    if study is None and space is None:
        raise UserError("--networks needs --space or --study: where the networks are drawn from.")
    (over,) = spaces_of(study=study, space=space, size=size, classes=() if classes is None else (classes,))
    if networks < 1:
        raise UserError(f"--networks must be at least 1, not {networks}.")
    if table.kind != "measured":
        raise UserError(
            f"table {table.name} is {table.kind}, not measured: there is no device here that its sums could be "
            "compared on; leave --networks out to see its published checks."
        )
    drawn = random_networks(
        over,
        networks,
        seed=1 if seed is None else seed,
        without=[check.name for check in table.header.validation],
        accepts=lambda candidate: all(block.key in table.rows for block in candidate_blocks(candidate)),
    )
    if len(drawn) < networks:
        options = shlex.join(("--study", study) if study is not None else space_options(over.name, over.task))
        raise UserError(
            f"table {table.name} has all rows of only {len(drawn)} random members of space {over.name!r} that it was "
            f"not calibrated on, {networks} are wanted; ask for fewer, or measure them with: topformer-nas latency "
            f"measure --device {table.header.device} {options} --table {table.name}"
        )
    return check_networks(
        table,
        drawn,
        device=device_named(table.header.device),
        runtime=runtime_named(table.header.runtime),
        partial=user_tables_folder() / f"{table.name}.validate.partial",
        progress=report,
    )


def random_networks(
    space: SearchSpace,
    count: int,
    *,
    seed: int,
    without: Collection[str] = (),
    accepts: Callable[[Candidate], bool] = lambda _: True,
) -> dict[str, Candidate]:
    """Distinct members of a space by name, no anchor and none that is named in `without`; fewer where there are not so
    many, or none among 10,000 drawn."""
    rng = random.Random(f"networks {seed}")
    if space.size <= _ENUMERABLE:
        drawn = list(space.candidates())
        rng.shuffle(drawn)
        candidates: Iterable[Candidate] = drawn
    else:
        candidates = (space.sample(rng) for _ in range(_MOST_DRAWN))
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        name = f"{space.name}-{candidate.key}"
        if len(found) == count:
            break
        if anchor_name(candidate.arch) is None and name not in without and accepts(candidate):
            found[name] = candidate
    return found
