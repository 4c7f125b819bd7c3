"""What does an exporter see of a network? One `nn.Module` for one size, with all that was asked for inside.

Exporters that trace torch (ONNX, ExecuTorch, LiteRT) take `program`; its outputs are those that parity compares.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from experiments.export.formats import Network
from latency_lut.runtimes.onnxruntime import exportable
from topformer.blocks import PPM_BINS
from topformer.model import Pool, PyramidPoolingModule, upsample


class Program(nn.Module):
    """A network that returns a tuple: its output, and then that of every block that is probed."""

    def __init__(self, network: nn.Module, *, probes: tuple[str, ...], normalise_inside: bool) -> None:
        super().__init__()
        self.network = network
        self.probes = probes
        self.normalise_inside = normalise_inside
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STANDARD_DEVIATION))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / deviation, persistent=False)
        self.register_buffer("shift", -mean / deviation, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> outputs, as `Network.outputs` names them."""
        image = self.normalised(image)
        seen: dict[str, Tensor] = {}

        def note(name: str) -> torch.utils.hooks.RemovableHandle:
            part = self.network.get_submodule(name)
            return part.register_forward_hook(lambda _part, _given, out: seen.__setitem__(name, cast(Tensor, out)))

        hooks = [note(name) for name in self.probes]
        out = cast(Tensor, self.network(image))
        for hook in hooks:
            hook.remove()
        return (out, *(seen[name] for name in self.probes))

    def normalised(self, image: Tensor) -> Tensor:
        """What the network itself is given."""
        return image * self.scale + self.shift if self.normalise_inside else image


def program(network: Network) -> Program:
    """For exporters: a copy without what they stumble over (`exportable`), on the task's size unless it is dynamic."""
    height, width = network.task.image_size
    if network.dynamic:
        made = with_growing_pools(network.model)
    else:
        made = exportable(network.model.eval(), ((3, height, width),))
    return Program(made, probes=network.probes, normalise_inside=network.normalise_inside).eval()


class GrowingPool(nn.Module):
    """Adaptive average pooling whose averaging matrices are made from the size of what is pooled."""

    def forward(self, token: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, w) -> (B, C, *grid)."""
        rows, columns = (_averaging(size, bins) for size, bins in zip(token.shape[-2:], grid, strict=True))
        return rows @ token @ columns.T


class _GrowingPyramidPooling(nn.Module):
    """A `PyramidPoolingModule` on any size."""

    def __init__(self, module: PyramidPoolingModule) -> None:
        super().__init__()
        self.pool = GrowingPool()
        self.branches = module.branches
        self.fuse = module.fuse

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        branches = zip(PPM_BINS, self.branches, strict=True)
        maps = [x, *(upsample(F.relu(branch(self.pool(x, (bins, bins)))), size) for bins, branch in branches)]
        return F.relu(self.fuse(torch.cat(maps, dim=1)))


def with_growing_pools(module: nn.Module) -> nn.Module:
    """A copy whose adaptive pooling can be exported for every size of image."""
    made = copy.deepcopy(module).eval()
    for name, part in list(made.named_modules()):
        if isinstance(part, Pool):
            made.set_submodule(name, GrowingPool())
        elif isinstance(part, PyramidPoolingModule):
            made.set_submodule(name, _GrowingPyramidPooling(part))
    return made


def _averaging(size: int, bins: int) -> Tensor:
    """(bins, size), as `averaging_matrix`, in operations that an exporter can write down for a size not known yet."""
    row, column = torch.arange(bins)[:, None], torch.arange(size)[None]
    start = torch.div(row * size, bins, rounding_mode="floor")
    stop = torch.div((row + 1) * size + bins - 1, bins, rounding_mode="floor")
    return ((column >= start) & (column < stop)).float() / (stop - start).float()


def reference(network: Network) -> Program:
    """The network itself, as torch runs it: what an exported file must equal."""
    return Program(network.model, probes=network.probes, normalise_inside=network.normalise_inside).eval()


def example(network: Network, *, batch: int = 1) -> Tensor:
    """An input of the right shape: zeros."""
    return torch.zeros(batch, 3, *network.task.image_size)
