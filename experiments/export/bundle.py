"""How does an architecture leave the tool? As files for the runtimes of devices, proven equal to the network, with a
card.

Everything is made in a folder beside the one that was asked for, judged there, and moved at the end: where a gate
fails, nothing is left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.export.card import Provenance, card
from experiments.export.formats import Format, Network, Options, require_sayable
from experiments.export.formats.named import require_installed
from experiments.export.gates import Parity, parity, require_parity
from experiments.export.images import Images
from topformer.errors import UserError

CARD = "card.json"
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
    """Write the formats, each as `out/name` and its endings, and `out/card.json`.

    Raises `UserError`, with nothing written, where a format cannot say what is asked for, where its runtime does not
    reproduce torch within its tolerance, and where something is in the place.
    """
    for one in formats:
        require_installed(one)
        require_sayable(one, network, options)
    with replacing(out, overwrite=overwrite) as folder:
        made = []
        for done, one in enumerate(formats):
            report("exporting", done, len(formats), one.title)
            made.append(_made(one, network, folder, name, options, images, trained=provenance.weights != "random"))
        said = card(network, made={one.format.name: one.as_dict() for one in made}, provenance=provenance)
        (folder / CARD).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return Export(
        folder=out,
        made=tuple(
            Made(format=m.format, files=tuple(out / f.name for f in m.files), report=m.report, parity=m.parity)
            for m in made
        ),
    )


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
    if not overwrite:
        raise UserError(
            f"{out} is not empty ({', '.join(there[:3])}{', ...' if len(there) > 3 else ''}); name an empty "
            "folder with --out, or replace the export that is there with --overwrite."
        )


def _move(folder: Path, target: Path) -> None:
    """The card last: a folder without one is no export."""
    target.mkdir(parents=True, exist_ok=True)
    (target / CARD).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CARD):
        path.replace(target / path.name)
