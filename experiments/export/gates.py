"""Does an exported file do what the network does? Measured on images, judged, and where it fails, located."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.export.formats import Format, Network, Options
from experiments.export.images import Images
from experiments.export.program import reference
from topformer.blocks import decompose
from topformer.errors import UserError
from topformer.model import upsample

CLOSE = 1e-3
"""Torch's two best logits of a pixel that are nearer than this do not say which class it has."""
MOST_CLOSE_PCT = 0.1
_AMPLIFIED = 30
"""A runtime rounds as often as torch does, but elsewhere: by so much more may untrained networks differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """One format against torch, over all images."""

    images: int
    source: str
    max_abs_error: float
    """Of a logit; of labels, the share of pixels that differ."""
    greatest_logit: float
    tolerance: float | None
    """Of the error, relative to the greatest logit where that is above 1."""
    differing: int
    """Pixels of another label, though torch's two best logits differ by more than `CLOSE`."""
    close_pct: float
    """Share of pixels where they do not."""
    torch_rounding: float
    """Greatest difference between torch's own float32 and float64."""

    @property
    def relative(self) -> float:
        return self.max_abs_error / max(1.0, self.greatest_logit)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"relative_error": self.relative}


def parity(one: Format, network: Network, files: Sequence[Path], images: Images) -> Parity:
    """Run a format's files and torch on the same images. Raises `UserError` where torch's own logits are not finite."""
    session, expected = one.load(files), reference(network)
    worst = scale = 0.0
    differing = close = pixels = 0
    for given in images.inputs(network):
        wanted, logits = _by_torch(expected, network, given)
        got = session(given)[0]
        if got.shape != wanted.shape:
            raise UserError(f"format {one.name} gives {got.shape}, torch {wanted.shape}; nothing was written.")
        scale = max(scale, float(np.abs(logits).max()))
        best = np.sort(logits, axis=1)[:, -2:] if logits.shape[1] > 1 else None
        sure = np.ones(logits[:, 0].shape, bool) if best is None else best[:, 1] - best[:, 0] > CLOSE
        labels = (got, wanted) if network.task.output == "labels" else (_labels(got), _labels(wanted))
        other = labels[0].reshape(sure.shape) != labels[1].reshape(sure.shape)
        differing, close, pixels = differing + int((other & sure).sum()), close + int((~sure).sum()), pixels + sure.size
        error = float(other.mean()) if network.task.output == "labels" else float(np.abs(got - wanted).max())
        worst = max(worst, error if np.isfinite(got).all() else np.inf)
    return Parity(
        images=len(images.pixels),
        source=images.source,
        max_abs_error=worst,
        greatest_logit=scale,
        tolerance=one.tolerance,
        differing=differing,
        close_pct=100 * close / pixels,
        torch_rounding=_rounding(network, images.inputs(network)[0]),
    )


def require_parity(
    one: Format, network: Network, options: Options, found: Parity, images: Images, *, trained: bool
) -> None:
    """Raise `UserError`, with the first block that diverges, where a format with exact weights is not equal to torch.

    Untrained weights amplify rounding: there, only what torch's own rounding cannot explain is a fault.
    """
    if one.tolerance is None:
        return
    allowed = one.tolerance * max(1.0, found.greatest_logit)
    if not trained:
        allowed = max(allowed, _AMPLIFIED * found.torch_rounding)
    if found.max_abs_error <= allowed and not (trained and found.differing and one.tolerance <= CLOSE):
        return
    place = first_divergence(one, network, options, images.inputs(network)[0], tolerance=allowed)
    where = "no block alone diverges" if place is None else f"the first block that diverges is {place[0]}"
    raise UserError(
        f"format {one.name} differs from torch by {found.max_abs_error:.2g} on logits up to "
        f"{found.greatest_logit:.3g}, allowed are {allowed:.2g}, and gives "
        f"{found.differing} pixels another label although torch is sure; "
        f"{where}; torch itself differs by {found.torch_rounding:.2g} between float32 "
        "and float64. Nothing was written."
    )


def _by_torch(
    expected: torch.nn.Module, network: Network, given: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """What the network gives, and the logits behind it where its labels are."""
    with torch.inference_mode():
        image = torch.from_numpy(given)
        wanted = expected(image)[0]
        logits = wanted
        if network.task.output == "labels":
            logits = upsample(network.model.segment(expected.normalised(image))[0], network.task.image_size)  # type: ignore[operator]
    if not torch.isfinite(logits).all():
        raise UserError("the network's logits are not finite; its weights are damaged.")
    return wanted.numpy(), logits.numpy()


def _labels(logits: NDArray[Any]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = logits.argmax(axis=1)
    return found


def _rounding(network: Network, given: NDArray[np.float32]) -> float:
    """Greatest difference of torch's own float32 and float64 logits on one image."""
    image = reference(network).normalised(torch.from_numpy(given))
    with torch.inference_mode():
        exact = copy.deepcopy(network.model).double().segment(image.double())[0]
        return float((network.model.segment(image)[0].double() - exact).abs().max())


def first_divergence(
    one: Format, network: Network, options: Options, given: NDArray[np.float32], *, tolerance: float
) -> tuple[str, float] | None:
    """The first block, in the order they run, whose output differs by more than the tolerance, and by how much.

    The difference is relative to the block's greatest value where that is above 1. None where no block's does: what is
    returned is not fused with what follows.
    """
    names = tuple(block.name for block in decompose(network.arch, network.task)[:-1])
    probed = replace(network, probes=names)
    with tempfile.TemporaryDirectory() as folder:
        got = one.load(one.write(probed, Path(folder), "probed", options).files)(given)
    with torch.inference_mode():
        wanted = reference(probed)(torch.from_numpy(given))
    last = decompose(network.arch, network.task)[-1].name
    for name, ours, theirs in zip((*names, last), (*wanted[1:], wanted[0]), (*got[1:], got[0]), strict=True):
        difference = float(np.abs(ours.numpy() - theirs).max()) / max(1.0, float(ours.abs().max()))
        if not difference <= tolerance:
            return name, difference
    return None
