"""Which blocks does a table need, and where does it go? From names on the command line to `latency_lut.measure`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.study import StudyConfig
from latency_lut.devices import Device
from latency_lut.measure import measure_table
from latency_lut.runtimes import Runtime
from latency_lut.table import SUFFIX, LatencyTable, require_table_name, user_tables_folder
from search_space import SearchSpace, blocks, preset
from topformer.blocks import Block, decompose
from topformer.config import ANCHORS, Candidate, Task, TopFormerConfig, parse_image_size
from topformer.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to time."""

    blocks: tuple[Block, ...]
    networks: Mapping[str, Candidate]
    """Timed as wholes in the same run: the anchors."""


def plan(
    *,
    study: str | None,
    space: str | None,
    archs: tuple[TopFormerConfig, ...] = (),
    size: str | None,
    classes: tuple[int, ...],
) -> Plan:
    """Blocks of a study's space, of a preset, or of architectures; always with the anchors' own at 150 classes."""
    if study is not None:
        if space is not None or size is not None or classes:
            raise UserError(
                "--study says which space, size and classes to measure: leave --space, --size and --classes out."
            )
        return _plan_of(StudyConfig.load(study).search_space())
    pixels = parse_image_size(size or "512")
    tasks = [Task(image_size=pixels, num_classes=count) for count in classes or (Task().num_classes,)]
    plans = [_plan_of(preset(space, task=task)) if space else _anchor_plan(task) for task in tasks]
    own = [block for part in plans for block in part.blocks]
    own += [block for arch in archs for task in tasks for block in decompose(arch, task)]
    return Plan(blocks=tuple(own), networks=plans[0].networks)


def measure(
    wanted: Plan, *, device: Device, runtime: Runtime, out: str, report: Callable[[int, int, str], None]
) -> LatencyTable:
    """Raises `UserError` where the table at `out` comes from another machine, runtime or timing."""
    path = table_path(out)
    return measure_table(
        wanted.blocks,
        networks=wanted.networks,
        device=device,
        runtime=runtime,
        out=path,
        name=path.stem,
        progress=report,
    )


def table_path(out: str) -> Path:
    """A path as it is; a bare name is a table in the user's own folder. Raises `UserError` for an illegal name."""
    is_path = out.endswith(SUFFIX)
    require_table_name(Path(out).stem if is_path else out)
    return Path(out) if is_path else user_tables_folder() / f"{out}{SUFFIX}"


def _plan_of(space: SearchSpace) -> Plan:
    anchors = _anchor_plan(space.task)
    return Plan(blocks=(*blocks(space), *anchors.blocks), networks=anchors.networks)


def _anchor_plan(task: Task) -> Plan:
    published = Task(image_size=task.image_size)
    networks = {name: Candidate(arch=arch, task=task) for name, arch in ANCHORS.items()}
    own = [block for arch in ANCHORS.values() for what in (task, published) for block in decompose(arch, what)]
    return Plan(blocks=tuple(own), networks=networks)
