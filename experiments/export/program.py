"""What does an exporter see of a network? One `nn.Module` for one size, with all that was asked for inside.

Exporters that trace torch (ONNX, ExecuTorch, LiteRT) take `program`; its outputs are those that parity compares.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from experiments.export.formats import Network
from latency_lut.runtimes.onnxruntime import exportable


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
    """For exporters: a copy on the task's size, without what they stumble over (`exportable`)."""
    assert not network.dynamic, "a program is for one size"
    height, width = network.task.image_size
    static = exportable(network.model.eval(), ((3, height, width),))
    return Program(static, probes=network.probes, normalise_inside=network.normalise_inside).eval()


def reference(network: Network) -> Program:
    """The network itself, as torch runs it: what an exported file must equal."""
    return Program(network.model, probes=network.probes, normalise_inside=network.normalise_inside).eval()


def example(network: Network, *, batch: int = 1) -> Tensor:
    """An input of the right shape: zeros."""
    return torch.zeros(batch, 3, *network.task.image_size)
