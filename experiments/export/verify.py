"""Is a bundle whole, and does it agree with itself? `python DIR/verify.py`, or `topformer-nas export --verify DIR`.

This file lies in every bundle and runs without the tool that made it: it needs NumPy, Pillow, and of the runtimes
those that are at hand. It checks every file against SHA256SUMS, draws the card and the picture again from what they are
made of, and runs every exported file on the images that are kept with the logits torch gave for them.

What it cannot do: vouch for itself, or for whoever made the bundle. Compare the digest that it prints with one from
whom you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUMS, CARD, PAGE, LABELS, PREVIEW, REFERENCE, SELF = (
    "SHA256SUMS",
    "card.json",
    "card.md",
    "labels.txt",
    "preview.png",
    "reference.npz",
    "verify.py",
)
MOST_BYTES = 2**30
OPACITY = 0.6
Run = Callable[[NDArray[np.float32]], NDArray[Any]]


class BundleError(Exception):
    """What is wrong with a bundle, in a sentence."""


def main() -> int:
    """Exit code 0 where nothing was found, 1 where something was."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    found, notes = check(folder)
    print(f"verify.py has the SHA-256 {sha256(Path(__file__))}; it cannot vouch for itself or for the bundle's author.")
    for note in notes:
        print(note)
    for problem in found:
        print(f"WRONG: {problem}")
    print(f"{folder}: {len(found)} problems" if found else f"{folder}: whole, and in agreement with itself")
    return 1 if found else 0


def check(folder: Path) -> tuple[list[str], list[str]]:
    """(problems, what was done): everything that can be said of a bundle from itself."""
    if not folder.is_dir():
        return [f"there is no folder {folder}"], []
    problems = list(wrong_sums(folder))
    if problems:
        return problems, []
    notes: list[str] = [f"{len(read_sums(folder))} files have the checksums of {SUMS}"]
    try:
        card = read_card(folder)
        images, logits = read_reference(folder, card)
    except (BundleError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError) as error:
        return [f"{CARD} or {REFERENCE}: {type(error).__name__}: {error}"], notes
    for what in (wrong_card, wrong_page, wrong_files):
        problems += _told(what, folder, card)
    problems += _told(wrong_preview, folder, card, images, logits)
    for name, made in card["formats"].items():
        if not set(made["files"]) <= read_sums(folder).keys():
            continue  # told by wrong_files
        try:
            run = opened(name, [folder / file for file in made["files"]], str(card["input"]["name"]))
        except ImportError as error:
            notes.append(f"{name} was not run: {error.name or error} is not installed here")
            continue
        except Exception as error:  # a runtime may raise anything for a file that it cannot read
            problems.append(f"{name}: its runtime cannot read it ({error})")
            continue
        problems += _told(wrong_numbers, name, made, card, run, images, logits)
        notes.append(f"{name} was run on {len(images)} images")
    return problems, notes


def _told(what: Callable[..., Iterator[str]], *given: Any) -> list[str]:
    try:
        return list(what(*given))
    except Exception as error:  # a card may lack anything
        return [f"{what.__name__.replace('_', ' ')}: {type(error).__name__}: {error}"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """Digest of every file, by name, as `sha256sum` writes them."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def wrong_sums(folder: Path) -> Iterator[str]:
    """Files that are altered, missing or not of the bundle."""
    if not (folder / SUMS).is_file():
        yield f"{SUMS} is missing: this is no bundle"
        return
    try:
        said = read_sums(folder)
    except (OSError, UnicodeDecodeError) as error:
        yield f"{SUMS} cannot be read ({error})"
        return
    there = {path.name for path in folder.iterdir()} - {SUMS}
    yield from (f"{name} is missing" for name in sorted(said.keys() - there))
    yield from (f"{name} is not of the bundle" for name in sorted(there - said.keys()))
    for name in sorted(said.keys() & there):
        path = folder / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            yield f"{name} is no ordinary file"
        elif sha256(path) != said[name]:
            yield f"{name} has changed"
    yield from (
        f"{name} is not in {SUMS}" for name in (CARD, PAGE, LABELS, PREVIEW, REFERENCE, SELF) if name not in said
    )


def read_card(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / CARD).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise BundleError("the card is no table")
    return found


def read_reference(folder: Path, card: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images (N, H, W, 3), and what torch gave for them, as many rows and columns of it as are kept."""
    with np.load(folder / REFERENCE, allow_pickle=False) as kept:
        images, logits = kept["images"], kept["logits"]
    shape = tuple(card["input"]["shape"])
    if images.dtype != np.uint8 or images.shape[1:] != (*shape[2:], 3):
        raise BundleError(f"its images are {images.shape[1:]}, the input is {shape}")
    if logits.shape[0] != images.shape[0] or not np.isfinite(logits).all():
        raise BundleError("its logits are not finite, or not of its images")
    return images, logits


def wrong_card(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    """Where the card contradicts itself, or the list of classes."""
    canonical = json.dumps(card["architecture"], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(canonical.encode()).hexdigest()[:16] != card["arch_key"]:
        yield "the card's key is of another architecture"
    task, blocks, names = card["task"], card["blocks"], [name for name, _ in card["classes"]]
    if (folder / LABELS).read_text(encoding="utf-8").splitlines() != names:
        yield f"{LABELS} has other classes than the card"
    if len(names) != task["num_classes"]:
        yield f"the card has {len(names)} classes, its task {task['num_classes']}"
    if card["input"]["shape"][2:] != task["image_size"] or card["output"]["name"] != task["output"]:
        yield "the card's input or output is not of its task"
    for total in ("parameters", "macs"):
        if sum(block[total] for block in blocks) != card[total]:
            yield f"the card's blocks have {sum(block[total] for block in blocks):,} {total}, not {card[total]:,}"
    if blocks[-1]["output"] != card["output"]["shape"][1:]:
        yield "the card's output is not of its last block"
    latency = card["latency"]
    if latency is not None and not latency["low_ms"] <= latency["total_ms"] <= latency["high_ms"]:
        yield "the card's latency is outside of its interval"


def wrong_page(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    if (folder / PAGE).read_text(encoding="utf-8") != page(card):
        yield f"{PAGE} says other than {CARD}"


def wrong_files(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    """Files of formats, as the card has them."""
    listed = {CARD, PAGE, LABELS, PREVIEW, REFERENCE, SELF}
    for made in card["formats"].values():
        for name, said in made["files"].items():
            listed.add(name)
            path = folder / name
            if not path.is_file():
                yield f"{name} is of the card, and missing"
            elif (path.stat().st_size, sha256(path)) != (said["bytes"], said["sha256"]):
                yield f"{name} is another file than the card says"
    yield from (f"{name} is not of the card" for name in sorted(read_sums(folder).keys() - listed))


def wrong_preview(
    folder: Path, card: Mapping[str, Any], images: NDArray[np.uint8], logits: NDArray[Any]
) -> Iterator[str]:
    drawn = preview(images, logits, card)
    with Image.open(folder / PREVIEW) as picture:
        same = picture.size == (drawn.shape[1], drawn.shape[0]) and np.array_equal(
            np.asarray(picture.convert("RGB")), drawn
        )
    if not same:
        yield f"{PREVIEW} shows other labels than the kept logits"


def wrong_numbers(
    name: str,
    made: Mapping[str, Any],
    card: Mapping[str, Any],
    run: Run,
    images: NDArray[np.uint8],
    logits: NDArray[Any],
) -> Iterator[str]:
    """Where a format gives other than the kept logits, or is further from them than its card admits."""
    step, said = card["reference"]["step"], made["parity"]
    scale = max(1.0, float(np.abs(logits).max()))
    allowed = said["tolerance"] * scale if said["tolerance"] is not None else None
    worst = 0.0
    for image, wanted in zip(images, logits, strict=True):
        got = run(prepared(image, card))
        if list(got.shape) != card["output"]["shape"]:
            yield f"{name} gives {list(got.shape)}, the card says {card['output']['shape']}"
            return
        part = got[0, :, ::step, ::step]
        if card["task"]["output"] == "labels":
            worst = max(worst, float(np.mean(part != wanted)))
        else:
            worst = max(worst, float(np.abs(part - wanted).max()) if np.isfinite(part).all() else np.inf)
    admitted = max(2 * said["max_abs_error"], 1e-5 * scale)
    if not worst <= admitted:
        yield f"{name} is {worst:.2g} off the kept logits, the card admits {said['max_abs_error']:.2g}"
    elif allowed is not None and worst > max(allowed, admitted):
        yield f"{name} is {worst:.2g} off the kept logits, allowed are {allowed:.2g}"
    if card["task"]["output"] != "labels" and said["greatest_logit"] < 0.999 * float(np.abs(logits).max()):
        yield f"{name}: logits up to {said['greatest_logit']:.3g} were compared, the kept ones are greater"
    if not np.isclose(said["relative_error"], said["max_abs_error"] / max(1.0, said["greatest_logit"])):
        yield f"{name}: the card's relative difference is not that of its difference"
    yield from wrong_metadata(name, run, card)


def wrong_metadata(name: str, run: Run, card: Mapping[str, Any]) -> Iterator[str]:
    """What a file says of itself, where it does."""
    said = getattr(run, "metadata", {})
    wanted = {"arch_key": card["arch_key"], "classes": json.dumps([name for name, _ in card["classes"]])}
    wanted |= {"mean": json.dumps(card["input"]["mean"]), "std": json.dumps(card["input"]["std"])}
    for key, value in wanted.items():
        if key in said and said[key] != value:
            yield f"{name} was made with another {key} than the card says"


def prepared(image: NDArray[np.uint8], card: Mapping[str, Any]) -> NDArray[np.float32]:
    """(H, W, 3) -> (1, 3, H, W), as the card's input says."""
    values: NDArray[np.float32] = image.astype(np.float32)
    if card["input"]["normalised"] == "before":
        mean, deviation = (np.array(card["input"][name]).astype(np.float32) for name in ("mean", "std"))
        values = (values - mean) / deviation
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def preview(images: NDArray[np.uint8], logits: NDArray[Any], card: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Every image beside itself with its labels in colours; the nearest logit decides a pixel."""
    colours = np.array([colour for _, colour in card["classes"]], np.uint8)
    rows = []
    for image, kept in zip(images, logits, strict=True):
        labels = kept[0] if card["task"]["output"] == "labels" else kept.argmax(0)
        down, across = (
            np.arange(side) * there // side for side, there in zip(image.shape[:2], labels.shape, strict=True)
        )
        painted = colours[labels[down][:, across]]
        blended = ((1 - OPACITY) * image + OPACITY * painted).astype(np.uint8)
        rows.append(np.concatenate([image, blended], axis=1))
    return np.concatenate(rows)


def page(card: Mapping[str, Any]) -> str:
    """The card for people."""
    latency, size = card["latency"], "x".join(map(str, card["task"]["image_size"]))
    name = card["anchor"] or f"arch-{card['arch_key']}"
    lines = [f"# {card['name']}", ""]
    lines += [f"A TopFormer ({name}) that labels {size} images with {len(card['classes'])} classes.", ""]
    lines += ["| | |", "|---|---|"]
    facts = {
        "architecture": f"`{card['arch_key']}`" + (f", nearest to {card['nearest']}" if card["nearest"] else ""),
        "parameters": f"{card['parameters']:,}",
        "multiply-adds": f"{card['macs'] / 1e9:.3f} G",
        "latency": "not said: no table was named"
        if latency is None
        else f"{latency['total_ms']:.2f} ms, {latency['low_ms']:.2f} to {latency['high_ms']:.2f} ({latency['kind']}, "
        f"table {latency['table']}, {latency['table_checksum']})",
        "mIoU": "not said: the weights are of no trial"
        if card["miou_pct"] is None
        else f"{card['miou_pct']:.2f} % by {card['fidelity']}"
        + (f" ± {card['miou_margin_pct']:.2f}" if card["miou_margin_pct"] is not None else "")
        + f", study {card['study']}, trial {card['trial']}",
        "weights": str(card["weights"]),
        "compared on": str(card["parity"]["source"]),
        "licence": card["licence"] or "not said",
        "made": f"{card['date']} by topformer-nas {card['made_by']['topformer-nas']}",
    }
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "## Architecture", "", "```", *drawing(card), "```", "", "## Formats", ""]
    lines += ["| format | files | MB | largest difference from torch | other labels though torch is sure |"]
    lines += ["|---|---|---|---|---|"]
    for made in card["formats"].values():
        files = ", ".join(made["files"])
        megabytes = sum(one["bytes"] for one in made["files"].values()) / 1e6
        found = made["parity"]
        error = f"{found['max_abs_error']:.2g} of {found['greatest_logit']:.3g}"
        lines.append(f"| {made['title']} | {files} | {megabytes:.2f} | {error} | {found['differing']} px |")
    lines += ["", card["proves"], "", "## Input and output", "", *contract(card), "", "## Use", ""]
    for name, made in card["formats"].items():
        lines += [f"### {made['title']}", "", "```python", *example(name, made, card), "```", ""]
        lines += [ELSEWHERE.get(name.partition("-")[0], ""), ""]
    lines += ["## Again", "", "```sh", card["command"], "python verify.py", "```", ""]
    return "\n".join(lines)


def drawing(card: Mapping[str, Any]) -> Iterator[str]:
    """The architecture in a few lines of text."""
    arch = card["architecture"]
    yield f"stride  2  stem {arch['stem_channels']}" + "".join(f" > {_row(row)}" for row in arch["stride2"])
    for stride, rows in zip((4, 8, 16, 32), arch["stages"], strict=True):
        injected = "  -> injected" if stride in arch["injected_strides"] else ""
        yield f"stride {stride:2}  " + " > ".join(_row(row) for row in rows) + injected
    yield f"tokens at stride {arch['token_stride']} of {arch['token_source']}"
    yield f"{arch['extractor']}: {arch['num_blocks']} blocks, {arch['num_heads']} heads of {arch['key_dim']}"
    yield f"injection {arch['injection']}, {arch['injection_channels']} channels; head {arch['head']}"


def _row(row: Sequence[Any]) -> str:
    kernel, expand, channels, _ = row
    return f"{kernel}x{kernel} e{expand} c{channels}"


def contract(card: Mapping[str, Any]) -> Iterator[str]:
    given, output = card["input"], card["output"]
    yield f"* In: `{given['name']}`, float32 {given['shape']}, {given['colour']}, " + (
        f"normalised: (x - {given['mean']}) / {given['std']} of 0 to 255"
        if given["normalised"] == "before"
        else "0 to 255 as it is; mean and deviation are inside"
    )
    if given.get("dynamic"):
        yield "* Batch, height and width may be others (ONNX alone)."
    what = {"logits": "logits of every class, coarser than the image", "resized": "logits of every class and pixel"}
    yield f"* Out: `{output['name']}`, {output['shape']}, " + what.get(output["name"], "the class of every pixel")
    yield f"* The class of a number is its line, from 0, of `{LABELS}`."


ELSEWHERE = {
    "onnx": "C++ and Kotlin: `Ort::Session` and `ai.onnxruntime.OrtSession`, <https://onnxruntime.ai/docs/get-started/>.",
    "mnn": "C++ and Kotlin: `MNN::Interpreter::createFromFile` with precision high, <https://mnn-docs.readthedocs.io>.",
    "ncnn": "C++: `ncnn::Net` with `opt.use_fp16_arithmetic = false`, <https://github.com/Tencent/ncnn/wiki>.",
    "executorch": "C++ and Kotlin: `executorch::extension::Module`, <https://docs.pytorch.org/executorch>.",
    "litert": "C++ and Kotlin: `CompiledModel`, <https://ai.google.dev/edge/litert>.",
}


def example(name: str, made: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[str]:
    """Python that labels an image: a script of its own."""
    height, width = card["task"]["image_size"]
    yield "import sys"
    yield "sys.dont_write_bytecode = True  # else Python leaves a file in this folder"
    yield "import numpy as np"
    yield "from PIL import Image"
    yield f'image = np.asarray(Image.open("image.png").convert("RGB").resize(({width}, {height})), np.float32)'
    if card["input"]["normalised"] == "before":
        yield f"image = (image - {card['input']['mean']}) / {card['input']['std']}"
    yield "image = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)"
    yield "from verify import opened"
    yield f'run = opened("{name}", {list(made["files"])}, "{card["input"]["name"]}")'
    yield "out = run(image)"
    yield "labels = out[0, 0] if out.shape[1] == 1 and out.dtype != np.float32 else out[0].argmax(0)"
    yield f'names = open("{LABELS}", encoding="utf-8").read().splitlines()'
    yield "print({names[number] for number in np.unique(labels)})"


def opened(name: str, files: Sequence[Path | str], given: str) -> Run:
    """A file of a format in its runtime; calling it gives its output. Raises `ImportError` where that is missing."""
    kind = name.partition("-")[0]
    if kind not in OPENERS:
        raise BundleError(f"this file knows no runtime for {name}")
    return OPENERS[kind]([str(file) for file in files], given)


def _open_onnx(files: Sequence[str], given: str) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> NDArray[Any]:
        found: NDArray[Any] = session.run(None, {given: image})[0]
        return found

    run.metadata = session.get_modelmeta().custom_metadata_map  # type: ignore[attr-defined]
    return run


def _open_mnn(files: Sequence[str], given: str) -> Run:
    with quiet():
        mnn = importlib.import_module("MNN")
        interpreter = mnn.Interpreter(files[0])
        session = interpreter.createSession({"backend": "CPU", "numThread": 1, "precision": "high"})
    output = interpreter.getSessionOutput(session)

    def run(image: NDArray[np.float32]) -> NDArray[Any]:
        kinds = mnn.Halide_Type_Float, mnn.Tensor_DimensionType_Caffe
        interpreter.getSessionInput(session, given).copyFrom(mnn.Tensor(image.shape, kinds[0], image, kinds[1]))
        interpreter.runSession(session)
        shape, kind = output.getShape(), output.getDataType()
        dtype = np.int32 if kind == mnn.Halide_Type_Int else np.float32
        host = mnn.Tensor(shape, kind, np.zeros(shape, dtype), kinds[1])
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    return run


def _open_ncnn(files: Sequence[str], given: str) -> Run:
    ncnn = importlib.import_module("ncnn")
    net = ncnn.Net()
    for option in ("vulkan_compute", "fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(files[0]) or net.load_model(files[1]):
        raise BundleError("ncnn cannot read it")
    last = Path(files[0]).read_text(encoding="ascii").splitlines()[-1].split()
    name = last[4 + int(last[2])]

    def run(image: NDArray[np.float32]) -> NDArray[Any]:
        extractor = net.create_extractor()
        extractor.input(given, ncnn.Mat(np.ascontiguousarray(image[0])))
        failed, found = extractor.extract(name)
        if failed:
            raise BundleError(f"ncnn failed with code {failed}")
        return np.array(found)[None]

    return run


OPENERS: dict[str, Callable[[Sequence[str], str], Run]] = {"onnx": _open_onnx, "mnn": _open_mnn, "ncnn": _open_ncnn}


@contextmanager
def quiet() -> Iterator[None]:
    """MNN prints from C++ to standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
