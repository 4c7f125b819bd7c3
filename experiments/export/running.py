"""How does an exported file label images? In its own runtime, by what its card, or it itself, says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import Colour
from evaluators.evaluation import labels_of
from experiments.export import verify
from experiments.export.formats import Format, Session
from experiments.export.formats.named import files_of, format_of, require_installed
from topformer.errors import UserError
from topformer.model import upsample
from topformer.reading import MIB, file_text, parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported file, loaded: a `Labeller`."""

    format: Format
    session: Session
    size: tuple[int, int]
    card: dict[str, Any]
    """Of the card: input, task, classes."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(name) for name, _ in self.card["classes"])

    @property
    def palette(self) -> tuple[Colour, ...]:
        return tuple((int(red), int(green), int(blue)) for _, (red, green, blue) in self.card["classes"])

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) -> (1, 3, h, w), resized to the file's size, whatever its proportions."""
        height, width = self.size
        resized = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
        return verify.prepared(np.asarray(resized), self.card)

    def run(self, given: NDArray[np.float32]) -> NDArray[Any]:
        return self.session(given)[0]

    def labels(self, out: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
        """(H, W): logits are resized to what the network saw and then to the image, labels to the nearest."""
        if out.shape[1] == 1 and self.card["task"]["output"] == "labels":
            down, across = (np.arange(side) * there // side for side, there in zip(size, out.shape[2:], strict=True))
            found: NDArray[np.int64] = out[0, 0][down][:, across].astype(np.int64)
            return found
        return labels_of(upsample(torch.from_numpy(out), self.size), size)


def exported_file(path: Path) -> Exported | None:
    """None where the file is of no format that this tool exports, as weights are.

    Raises `UserError` where the format's extra is missing, where its runtime cannot read the file, and where nothing
    says what the file takes and gives.
    """
    one = format_of(path)
    if one is None:
        return None
    require_installed(one)
    card = _card_beside(path) or _metadata(path)
    if card is None:
        raise UserError(
            f"{path} does not say what it takes and gives: keep it beside the card.json that it was exported with, or "
            "export it again."
        )
    try:
        height, width = card["input"]["shape"][2:]
        return Exported(format=one, session=one.load(files_of(one, path)), size=(int(height), int(width)), card=card)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{path.with_name(verify.CARD)} lacks what a card says of the input; was it edited?") from None


def _card_beside(path: Path) -> dict[str, Any] | None:
    """The card in the file's folder, where it has the file with its checksum."""
    beside = path.with_name(verify.CARD)
    if not beside.is_file():
        return None
    card = parse_json(file_text(beside, "the card", most_bytes=16 * MIB), where=str(beside))
    try:
        files = {name: said for made in card["formats"].values() for name, said in made["files"].items()}
        known = files[path.name]["sha256"] == verify.sha256(path)
        complete = bool(card["classes"] and card["input"]["mean"] and card["task"]["output"])
    except (KeyError, TypeError, AttributeError):
        return None
    return card if known and complete else None


def _metadata(path: Path) -> dict[str, Any] | None:
    """What an ONNX file says of itself."""
    if path.suffix != ".onnx":
        return None
    import onnxruntime  # noqa: PLC0415, waits until it is needed

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    try:
        names, palette = json.loads(said["classes"]), json.loads(said["palette"])
        given = {"mean": json.loads(said["mean"]), "std": json.loads(said["std"]), "normalised": said["normalised"]}
        shape = [side if isinstance(side, int) else 512 for side in session.get_inputs()[0].shape]
        return {
            "classes": list(zip(names, palette, strict=True)),
            "input": given | {"shape": shape},
            "task": {"output": session.get_outputs()[0].name},
        }
    except (KeyError, TypeError, ValueError):
        return None
