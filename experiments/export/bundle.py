"""How does an architecture leave the tool? As files for the runtimes of devices, proven equal to the network, with a
card.

Everything is made in a folder beside the one that was asked for, judged there, and moved at the end: where a gate
fails, nothing is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from evaluators.datasets import Colour
from evaluators.evaluation import MEAN, STANDARD_DEVIATION
from experiments.export import verify
from experiments.export.card import Provenance, card
from experiments.export.formats import Format, Network, Options, require_sayable
from experiments.export.formats.named import require_installed
from experiments.export.gates import Parity, parity, require_parity
from experiments.export.images import Images
from experiments.export.program import reference
from topformer.errors import UserError
from topformer.version import tool_version

CARD = verify.CARD
REFERENCES = 3
"""Images that are kept with torch's logits, for whoever verifies."""
_MOST_KEPT = 2**20
"""Numbers of one image's output that are kept."""
Report = Callable[[str, int, int, str], None]
"""What is done, how far of how much, and a word about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One format of an export."""

    format: Format
    files: tuple[Path, ...]
    report: dict[str, Any]
    parity: Parity

    @property
    def sentence(self) -> str:
        """How it compares, for people."""
        opset = f"opset {self.report['opset']}, " if "opset" in self.report else ""
        if "sentence" in self.report:
            return f"{opset}{self.format.title}: {self.report['sentence']}"
        return f"{opset}{self.format.title} equals torch within {self.parity.max_abs_error:.2g}"

    def as_dict(self) -> dict[str, Any]:
        """JSON for the card; files by their names."""
        return {
            "title": self.format.title,
            "files": {
                path.name: {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for path in self.files
            },
            "operators": dict(self.format.operators(self.files)),
            "parity": self.parity.as_dict(),
            **self.report,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A finished export."""

    folder: Path
    made: tuple[Made, ...]
    """Files lie in the folder."""
    provenance: Provenance

    @property
    def card_path(self) -> Path:
        return self.folder / CARD

    def of(self, name: str) -> Made | None:
        return next((one for one in self.made if one.format.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON; that of the first format is said twice."""
        onnx = self.of("onnx")
        return {
            "folder": str(self.folder),
            "onnx_path": str(onnx.files[0]) if onnx else None,
            "card_path": str(self.card_path),
            "max_abs_error": self.made[0].parity.max_abs_error,
            "opset": onnx.report["opset"] if onnx else None,
            "formats": {
                one.format.name: {
                    "files": [str(path) for path in one.files],
                    "parity": one.parity.as_dict(),
                }
                for one in self.made
            },
        }


def export(
    network: Network,
    formats: Sequence[Format],
    out: Path,
    *,
    name: str,
    options: Options,
    images: Images,
    provenance: Provenance,
    overwrite: bool = False,
    report: Report = lambda *_: None,
) -> Export:
    """Write a bundle: the formats, each as `out/name` and its endings, card, labels, picture, reference, `verify.py`.

    Raises `UserError`, with nothing written, where a format cannot say what is asked for, where its runtime does not
    reproduce torch within its tolerance, and where something is in the place.
    """
    if options.opset is not None and not any(one.name.startswith("onnx") for one in formats):
        names = ", ".join(one.name for one in formats)
        raise UserError(f"--opset is of ONNX; leave it out for {names}.")
    for one in formats:
        require_installed(one)
        require_sayable(one, network, options)
    classes = provenance.named_classes(network.task.num_classes)
    options = dataclasses.replace(options, metadata=_metadata(network, classes))
    with replacing(out, overwrite=overwrite) as folder:
        made = []
        for done, one in enumerate(formats):
            report("exporting", done, len(formats), one.title)
            made.append(_made(one, network, folder, name, options, images, trained=provenance.trained))
        kept, step = _reference(network, images)
        said = card(
            network,
            name=name,
            made={one.format.name: one.as_dict() for one in made},
            provenance=provenance,
            step=step,
        )
        _describe(folder, said, images.pixels[:REFERENCES], kept)
        if wrong := verify.check(folder)[0]:
            raise UserError(f"the bundle contradicts itself ({'; '.join(wrong)}); nothing was written.")
    return Export(
        folder=out,
        provenance=provenance,
        made=tuple(
            Made(format=m.format, files=tuple(out / f.name for f in m.files), report=m.report, parity=m.parity)
            for m in made
        ),
    )


def _metadata(network: Network, classes: Sequence[tuple[str, Colour]]) -> dict[str, str]:
    """Of a file that goes its own ways, without its card."""
    return {
        "arch_key": network.arch.key,
        "architecture": network.arch.to_json(),
        "classes": json.dumps([name for name, _ in classes]),
        "palette": json.dumps([list(colour) for _, colour in classes]),
        "mean": json.dumps(list(MEAN)),
        "std": json.dumps(list(STANDARD_DEVIATION)),
        "normalised": "inside" if network.normalise_inside else "before",
        "made_by": f"topformer-nas {tool_version()}",
    }


def _reference(network: Network, images: Images) -> tuple[NDArray[Any], int]:
    """What torch gives for the first images, (N, classes, rows, columns), at every so many rows and columns."""
    with torch.inference_mode():
        found = [reference(network)(torch.from_numpy(one))[0].numpy() for one in images.inputs(network)[:REFERENCES]]
    whole = np.concatenate(found)
    step = max(1, math.ceil(math.sqrt(whole[0].size / _MOST_KEPT)))
    return whole[:, :, ::step, ::step], step


def _describe(folder: Path, said: dict[str, Any], pixels: NDArray[np.uint8], kept: NDArray[Any]) -> None:
    """All files of a bundle but those of its formats."""
    content = {
        CARD: (json.dumps(said, indent=2) + "\n").encode(),
        verify.PAGE: verify.page(said).encode(),
        verify.LABELS: "".join(f"{name}\n" for name, _ in said["classes"]).encode(),
        verify.SELF: Path(verify.__file__).read_bytes(),
    }
    for name, text in content.items():
        (folder / name).write_bytes(text)
    np.savez_compressed(folder / verify.REFERENCE, images=pixels, logits=kept)
    PillowImage.fromarray(verify.preview(pixels, kept, said)).save(folder / verify.PREVIEW)
    digests = {path.name: verify.sha256(path) for path in sorted(folder.iterdir())}
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (folder / verify.SUMS).write_text(sums, encoding="utf-8")


def _made(
    one: Format, network: Network, folder: Path, name: str, options: Options, images: Images, *, trained: bool
) -> Made:
    written = one.write(network, folder, name, options)
    if foreign := one.unsupported(written.files):
        raise UserError(
            f"format {one.name}: its runtime cannot do {', '.join(foreign[:5])}"
            f"{f' and {len(foreign) - 5} more' if len(foreign) > 5 else ''}; nothing was written."
        )
    found = parity(one, network, written.files, images)
    require_parity(one, network, options, found, images, trained=trained)
    return Made(format=one, files=written.files, report=dict(written.report), parity=found)


@contextmanager
def replacing(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` whose files are moved there when all went well; gone otherwise.

    Raises `UserError` where files are in the place, unless they may be overwritten.
    """
    require_free(out, overwrite=overwrite)
    target = out.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r} ({error.strerror}); name another folder with --out.") from None
    try:
        yield folder
        _move(folder, target)
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror}); nothing was exported.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_free(out: Path, *, overwrite: bool) -> None:
    """Raise `UserError` where the folder holds anything, unless that is an export and may be overwritten."""
    if out.exists() and not out.is_dir():
        raise UserError(f"cannot write to {str(out)!r} (it is no folder); name another folder with --out.")
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not there:
        return
    listed = f"{', '.join(there[:3])}{', ...' if len(there) > 3 else ''}"
    if not overwrite:
        raise UserError(
            f"{out} is not empty ({listed}); name an empty folder with --out, or replace the export that is there with "
            "--overwrite."
        )
    if foreign := set(there) - _of_an_export(out):
        raise UserError(
            f"{out} holds {sorted(foreign)[0]}, which is of no export and stays; name another folder with --out."
        )


def _of_an_export(out: Path) -> set[str]:
    """Names of what an export left in a folder: this version's, or a graph and its card of versions before."""
    names = {verify.SUMS}
    if (out / verify.SUMS).is_file():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            names |= verify.read_sums(out).keys()
    for path in out.glob("*.onnx"):
        names |= {path.name, path.with_suffix(".json").name}
    return {name for name in names if (out / name).is_file()}


def _move(folder: Path, target: Path) -> None:
    """The list of checksums last: a folder without one is no bundle. What was there is kept until all is in place."""
    target.mkdir(parents=True, exist_ok=True)
    old = _of_an_export(target)
    new = sorted((path.name for path in folder.iterdir()), key=lambda name: name == verify.SUMS)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".old", dir=target.parent) as aside:
        for name in old:
            (target / name).replace(Path(aside) / name)
        try:
            for name in new:
                (folder / name).replace(target / name)
        except OSError:
            for name in new:
                (target / name).unlink(missing_ok=True)
            for name in old:
                (Path(aside) / name).replace(target / name)
            raise
