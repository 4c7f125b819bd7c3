"""Which blocks can a search space need? What must be measured before every candidate of it has a latency.

Blocks depend on few knobs each, so a small set of candidates reaches them all: one for every combination of choices
of the knobs that some block depends on together. `topformer.blocks.decompose` says what those candidates are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise, product

from search_space.space import Choice, SearchSpace
from topformer.blocks import MODULES, Block, candidate_blocks
from topformer.config import ANCHORS, STAGE_STRIDES, Candidate


def blocks(space: SearchSpace) -> tuple[Block, ...]:
    """Blocks with distinct keys that the space's candidates need, and T, S and B at its image sizes, members or not.

    Sorted by part of the network, kind and key.
    """
    needed = dict.fromkeys(chain.from_iterable(map(candidate_blocks, _cover(space))))  # equal blocks have one key
    by_key = {block.key: block for block in reversed(needed)}  # of equal keys, the first block
    return tuple(sorted(by_key.values(), key=lambda block: (MODULES.index(block.module), block.kind, block.key)))


def _cover(space: SearchSpace) -> Iterator[Candidate]:
    """Candidates of which every block of every candidate of the space, and of the anchors, is a block."""
    distributions = space.distributions()
    deepest = {
        name: max(choices, key=int) if name.startswith("depth_") else choices[0]
        for name, choices in distributions.items()
    }
    sizes = set()
    for combination in _combinations(space):
        for size in distributions.get("image_size", (None,)):
            point = deepest | combination | ({} if size is None else {"image_size": size})
            candidate = space.decode(point)
            sizes.add(candidate.task.image_size)
            yield candidate
    for arch in ANCHORS.values():
        for image_size in sorted(sizes | {space.task.image_size}):
            yield Candidate(arch=arch, task=replace(space.task, image_size=image_size))


def _combinations(space: SearchSpace) -> Iterator[dict[str, Choice]]:
    """Choices of the knobs that a block depends on together, given its image size and all rows present."""
    base = space.base
    for before, stride in pairwise((2, *STAGE_STRIDES)):
        width = f"width_{stride}"
        yield from _product(space, f"width_{before}", width, f"kernel_{stride}_0", f"expand_{stride}_0")
        for row in sorted({knob.row for knob in space.knobs if knob.row and STAGE_STRIDES[knob.stage] == stride}):
            yield from _product(space, width, f"kernel_{stride}_{row}", f"expand_{stride}_{row}")
        unsplit = ("width_32",) if base.token_source == "last" else ()  # then every scale gets all semantics
        received = _receiving(space, stride)
        for choices in _product(space, width, *unsplit, "token_stride", "injection_channels"):
            yield choices | received
    yield from _product(space, "injection_channels", "head_fuse", "injected_strides")
    extractor = ("token_stride", "num_heads", "key_dim")
    shared = () if base.head == "topformer" else ("injection_channels",)  # projection of the unsplit semantics
    for widths in _widths_by_sum(space).values():
        for rest in _product(space, *extractor, *shared):
            yield widths | rest


def _receiving(space: SearchSpace, stride: int) -> dict[str, Choice]:
    """A choice of injected scales with this one among them, where there is any."""
    strides = space.distributions().get("injected_strides", ())
    return next(({"injected_strides": choice} for choice in strides if str(stride) in str(choice).split("-")), {})


def _widths_by_sum(space: SearchSpace) -> dict[int, dict[str, Choice]]:
    """One choice of widths for each number of channels that the semantics extractor may have."""
    found: dict[int, dict[str, Choice]] = {0: {}}
    for stride, fixed in zip(STAGE_STRIDES, space.base.widths, strict=True):
        if space.base.token_source == "last" and stride != 32:
            continue
        name = f"width_{stride}"
        options = [(int(choice), {name: choice}) for choice in space.distributions().get(name, ())] or [(fixed, {})]
        found = {total + width: point | extra for total, point in found.items() for width, extra in options}
    return found


def _product(space: SearchSpace, *names: str) -> Iterator[dict[str, Choice]]:
    """All choices of those of the named knobs that the space has."""
    choices = {name: space.distributions()[name] for name in names if name in space.distributions()}
    return (dict(zip(choices, combination, strict=True)) for combination in product(*choices.values()))
