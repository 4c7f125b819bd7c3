"""Weights on disk: our safetensors files, and import of released checkpoints. Nothing pickled is ever executed.

A safetensors file of ours carries its architecture, class count and kind in the metadata, so that it cannot be
loaded into another network by accident.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from numpy import dtypes as numpy_dtypes
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from topformer.config import STAGE_STRIDES, OutputKind, TaskKind, TopFormerConfig, named_arch
from topformer.errors import CheckpointError, LeftOut, UserError, first_line
from topformer.model import TopFormer, TopFormerClassifier
from topformer.reading import parse_json
from topformer.supernet import Supernet
from topformer.writing import write_whole

FORMAT = "topformer-nas 1"

Model = TypeVar("Model", TopFormer, TopFormerClassifier)
Arch = TopFormerConfig | str


def load_model(
    arch: Arch, *, num_classes: int = 150, weights: str | os.PathLike[str] | None = None, output: OutputKind = "logits"
) -> TopFormer:
    """A segmentation network in eval mode.

    `arch` is a config or "tiny", "small", "base"; `weights` our safetensors file or a released segmentation
    checkpoint. Without weights the network is randomly initialised. Raises `CheckpointError` naming the first
    missing, extra or misshaped tensor.
    """
    model = TopFormer(_resolve(arch), num_classes=num_classes, output=output)
    return _filled(model, weights, "segmentation")


def load_classifier(
    arch: Arch, *, num_classes: int = 1000, weights: str | os.PathLike[str] | None = None
) -> TopFormerClassifier:
    """The ImageNet variant in eval mode; `weights` as for `load_model`, from a classification checkpoint."""
    return _filled(TopFormerClassifier(_resolve(arch), num_classes=num_classes), weights, "classification")


def load_backbone(model: TopFormer | TopFormerClassifier, checkpoint: str | os.PathLike[str]) -> tuple[str, ...]:
    """Fill token pyramid and semantics extractor from a checkpoint of either kind.

    Returns the names of the parameters and buffers that stay as they were initialised.
    """
    path = Path(checkpoint)
    kind, given = _read(path, model.arch)
    own = model.state_dict()
    shared = {name for name in own if _in_backbone(name)}
    _fill(model, {name: tensor for name, tensor in given.items() if _in_backbone(name)}, shared, path, kind)
    return tuple(name for name in own if name not in shared)


def save_model(
    model: TopFormer | TopFormerClassifier,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[tuple[str, tuple[int, int, int]]] = (),
    protocol: Mapping[str, int] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all.

    `classes`: name and colour (RGB) of each, `protocol`: sizes that it was scored at, for whoever predicts.
    """
    kind: TaskKind = "segmentation" if isinstance(model, TopFormer) else "classification"
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "architecture": model.arch.to_json(),
        "num_classes": str(model.num_classes),
    }
    if classes:
        assert len(classes) == model.num_classes, f"{len(classes)} names for {model.num_classes} classes"
        metadata["classes"] = json.dumps(list(classes))
    if protocol is not None:
        metadata["protocol"] = json.dumps(dict(protocol))
    _write(model, path, metadata)


def save_supernet(supernet: Supernet, path: str | os.PathLike[str], *, description: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all; `description`: JSON that says how it was trained."""
    metadata = {
        "format": FORMAT,
        "kind": "supernet",
        "architecture": supernet.maximal.to_json(),
        "num_classes": str(supernet.num_classes),
        "description": json.dumps(description, sort_keys=True),
    }
    _write(supernet, path, metadata)


def saved_supernet(path: str | os.PathLike[str]) -> tuple[Supernet, dict[str, Any]]:
    """The supernet of one of our files, in eval mode, and how it was trained. Raises `CheckpointError`."""
    source = Path(path)
    if not _found_ours(source):
        raise CheckpointError(f"{source} is no supernet of this tool; train one with: topformer-nas supernet train")
    metadata, tensors = _read_safetensors(source)
    if metadata["kind"] != "supernet":
        raise CheckpointError(f"{source} holds a {metadata['kind']} network, not a supernet.")
    try:
        description = parse_json(metadata["description"], "its metadata")
    except (KeyError, UserError):
        description = None
    if not isinstance(description, dict):
        raise CheckpointError(f"{source} does not say how it was trained; was it edited?")
    maximal = TopFormerConfig.from_json(metadata["architecture"], where=str(source))
    supernet = Supernet(maximal, num_classes=_class_count(metadata, source))
    _fill(supernet, tensors, set(supernet.state_dict()), source, "supernet")
    return supernet.eval(), description


def _write(model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(Path(path), _in_order(save(tensors, dict(metadata))))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: written in an order of chance, equal weights had unequal bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def saved_model(path: str | os.PathLike[str]) -> TopFormer:
    """The segmentation network of one of our safetensors files, architecture and classes as saved."""
    source = Path(path)
    metadata, _ = _read_safetensors(source)
    if metadata["kind"] != "segmentation":
        raise CheckpointError(f"{source} holds a {metadata['kind']} network; a segmentation network is needed.")
    arch = TopFormerConfig.from_json(metadata["architecture"], where=str(source))
    return load_model(arch, num_classes=_class_count(metadata, source), weights=source)


def saved_architecture(path: str | os.PathLike[str]) -> TopFormerConfig | None:
    """Of one of our safetensors files; None for a checkpoint of another kind."""
    source = Path(path)
    if not _found_ours(source):
        return None
    metadata, _ = _read_safetensors(source)
    return TopFormerConfig.from_json(metadata["architecture"], where=str(source))


def class_count(path: str | os.PathLike[str]) -> int:
    """Number of classes of one of our safetensors files or of a released segmentation checkpoint."""
    source = Path(path)
    if _found_ours(source):
        metadata, _ = _read_safetensors(source)
        return _class_count(metadata, source)
    state = _released_state(source)
    classifier = next((tensor for name, tensor in state.items() if name.endswith("decode_head.conv_seg.weight")), None)
    if classifier is None or not classifier.ndim:
        raise CheckpointError(
            f"{path} is no released segmentation checkpoint: it has no decode_head.conv_seg.weight with classes."
        )
    return len(classifier)


def saved_classes(path: str | os.PathLike[str]) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Name and colour of every class of one of our safetensors files; empty where it does not say."""
    metadata, _ = _read_safetensors(Path(path))
    try:
        rows = parse_json(metadata.get("classes", "[]"), "its metadata")
        found = tuple((str(name), (int(red), int(green), int(blue))) for name, (red, green, blue) in rows)
    except (ValueError, TypeError, OverflowError, UserError):
        raise CheckpointError(f"{path}: its class names cannot be read; was it edited?") from None
    if found and (
        str(len(found)) != metadata["num_classes"] or not all(0 <= part <= 255 for _, rgb in found for part in rgb)
    ):
        raise CheckpointError(
            f"{path}: its {len(found)} class names do not fit its {metadata['num_classes'][:40]} classes, or a colour "
            "is not from 0 to 255; was it edited?"
        )
    return found


def saved_protocol(path: str | os.PathLike[str]) -> dict[str, int] | None:
    """Sizes that one of our safetensors files was scored at; None where it does not say."""
    metadata, _ = _read_safetensors(Path(path))
    try:
        found = parse_json(metadata.get("protocol", "null"), "its metadata")
        return None if found is None else {str(name): int(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError, UserError):
        raise CheckpointError(f"{path}: its protocol cannot be read; was it edited?") from None


def _class_count(metadata: Mapping[str, str], path: Path) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", metadata["num_classes"]):
        raise CheckpointError(
            f"{path}: num_classes is {metadata['num_classes'][:40]!r} in its metadata; was it edited?"
        )
    return int(metadata["num_classes"])


def _resolve(arch: Arch) -> TopFormerConfig:
    return arch if isinstance(arch, TopFormerConfig) else named_arch(arch)


def _filled(model: Model, weights: str | os.PathLike[str] | None, kind: TaskKind) -> Model:
    if weights is not None:
        path = Path(weights)
        given_kind, given = _read(path, model.arch)
        if given_kind != kind:
            raise CheckpointError(
                f"{path} holds a {given_kind} network, not a {kind} one; "
                "use load_classifier, or load_backbone to transfer the backbone."
            )
        _fill(model, given, set(model.state_dict()), path, kind)
    return model.eval()


def _fill(model: nn.Module, given: Mapping[str, Tensor], wanted: set[str], path: Path, kind: str) -> None:
    """Copy exactly the wanted tensors, or raise before anything is changed."""
    own = model.state_dict()
    advice = "is it a checkpoint of another architecture or class count?"
    for name in own:
        if name in wanted and name not in given:
            raise CheckpointError(f"{path}: missing tensor {name!r} of the {kind} network; {advice}")
    for name in given:
        if name not in wanted:
            raise CheckpointError(f"{path}: unexpected tensor {name!r}; {advice}")
    for name, tensor in given.items():
        plain = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.dtype.is_complex:
            raise CheckpointError(f"{path}: tensor {name!r} is not a plain array of numbers ({tensor.dtype}).")
        if tensor.dtype.is_floating_point != own[name].dtype.is_floating_point or tensor.dtype == torch.bool:
            raise CheckpointError(f"{path}: tensor {name!r} is of {tensor.dtype}, the network needs {own[name].dtype}.")
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name!r} has values that are not finite; the weights are damaged.")
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, the network needs "
                f"{tuple(own[name].shape)}; {advice}"
            )
    model.load_state_dict({**own, **given})


def _in_backbone(name: str) -> bool:
    return name.startswith(("token_pyramid.", "transformer."))


def _read(path: Path, arch: TopFormerConfig) -> tuple[TaskKind, dict[str, Tensor]]:
    """Kind and tensors, under our names."""
    if _found_ours(path):
        metadata, tensors = _read_safetensors(path)
        saved = TopFormerConfig.from_json(metadata["architecture"], where=str(path))
        if metadata["kind"] == "supernet":
            raise CheckpointError(
                f"{path} holds a supernet; take a network out of it with: topformer-nas supernet extract {path} ARCH"
            )
        if saved != arch:
            raise CheckpointError(
                f"{path} was saved from architecture {saved.key}, not {arch.key}; "
                "load it with the architecture it was trained with."
            )
        return ("segmentation" if metadata["kind"] == "segmentation" else "classification"), tensors
    return _read_released(path, arch)


def _found_ours(path: Path) -> bool:
    """Raises `CheckpointError` where there is no file to read."""
    try:
        found = path.is_file()
        ours = found and _is_safetensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the weights {str(path)[:200]!r} ({error}).") from None
    if not found:
        raise CheckpointError(f"no weights file {str(path)!r}.")
    return ours


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}).") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this tool (format {metadata.get('format')!r}, expected {FORMAT!r})."
        )
    if missing := {"kind", "architecture", "num_classes"} - metadata.keys():
        raise CheckpointError(f"{path} lacks the metadata {', '.join(sorted(missing))}; was it edited?")
    return metadata, tensors


def _read_released(path: Path, arch: TopFormerConfig) -> tuple[TaskKind, dict[str, Tensor]]:
    """A checkpoint of the reference code: segmentation {'meta', 'state_dict'}, or classification in three spellings."""
    if arch.head != "topformer" or arch.injection != "full" or arch.extractor != "attention":
        raise CheckpointError(
            f"{path}: released checkpoints exist for the paper's own head, full injection and attention only."
        )
    tensors = _released_state(path)
    segmentation = any(name.startswith(("backbone.", "decode_head.")) for name in tensors)
    rename = _released_renamer(arch, segmentation=segmentation)
    return ("segmentation" if segmentation else "classification"), {rename(n): t for n, t in tensors.items()}


def _released_state(path: Path) -> dict[str, Tensor]:
    """Tensors under the reference code's names."""
    content, foreign = _load_pickled_tensors(path)
    places = ["the file"]
    while isinstance(content, Mapping) and (
        key := next((key for key in _PLACES if _holds_tensors(content, key)), None)
    ):
        content = content[key]
        places.append(repr(key))
    found = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        if foreign:
            raise CheckpointError(
                f"{path} contains {foreign[0]}, which is code, not data; it was not loaded, and no tensors are beside "
                "it. Save the state_dict alone with the tool that made it."
            )
        raise CheckpointError(
            f"{path} holds no weights: expected a mapping of tensors, alone or under {', '.join(map(repr, _PLACES))}."
        )
    skipped = [*foreign, *(f"{name!r} of {places[-1]}" for name in found if name not in tensors)]
    if skipped:
        shown = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        warnings.warn(
            f"{path}: the tensors were read, and nothing of what is no tensor: {shown}.", LeftOut, stacklevel=2
        )
    return _without_wrappers(path, tensors)


_PLACES = ("state_dict_ema", "ema_state_dict", "model_ema", "state_dict", "model_state_dict", "model", "network", "net")
"""Where trainings keep weights in a checkpoint; averaged ones are those to evaluate."""
_WRAPPED = re.compile(r"^(?:(?:module|_orig_mod|model|net|network|student|ema|ema_model|model_ema|state_dict)\.)+")
"""What DistributedDataParallel, torch.compile, Lightning and distillations put before the names of tensors."""


def _holds_tensors(content: Mapping[Any, Any], key: str) -> bool:
    """Whether something of tensors is there, perhaps further down."""
    inside = content.get(key)
    return isinstance(inside, Mapping) and any(isinstance(one, Tensor | Mapping) for one in inside.values())


def _without_wrappers(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of the network itself; refuses two networks in one."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = _WRAPPED.sub("", name)
        if own in found:
            raise CheckpointError(
                f"{path} holds several networks: {own!r} is there with another beginning, too, as {name!r}. Save the "
                "state_dict of one of them alone."
            )
        found[own] = tensor
    return found


_NUMBERS = ("Bool", *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)))
_NUMBERS += ("Float16", "Float32", "Float64", "Complex64", "Complex128")
_HARMLESS = [  # data only: constructing them runs nothing of the checkpoint's
    argparse.Namespace,
    np.ndarray,
    codecs.encode,
    *(getattr(numpy_dtypes, f"{name}DType") for name in _NUMBERS),
]


def _number_dtype(code: object, *_: object) -> np.dtype[Any]:
    """Stands in for `numpy.dtype` in a pickle: arrays of objects are pointers, which a file must not supply."""
    dtype = np.dtype(code)  # type: ignore[call-overload]
    if dtype.kind not in "biufc":
        raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r}) was not allowed")
    return cast("np.dtype[Any]", dtype)


class _Foreign:
    """Stands in for what a pickle wants made of another program's class or function: it takes all and does nothing."""

    def __new__(cls, *_: object, **__: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget it."""


class _ForeignMapping:
    """The same of a class of mappings, whose items torch sets in its own classes alone."""

    def __new__(cls, *_: object, **__: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _ForeignList:
    def __new__(cls, *_: object, **__: object) -> list[Any]:  # type: ignore[misc]
        return []


def _load_pickled_tensors(path: Path) -> tuple[object, list[str]]:
    """What a checkpoint holds, and the names of classes and functions of other programs, for which something inert
    stands in. Nothing of theirs is imported or called."""
    _require_uncompressed(path)
    foreign = _foreign_names(path)
    for stand_in in (_Foreign, _ForeignMapping, _ForeignList):
        try:
            return _load_with(path, [(stand_in, name) for name in foreign]), foreign
        except pickle.UnpicklingError as error:
            if foreign and stand_in is not _ForeignList and _WRONG_KIND.search(str(error)):
                continue
            if match := re.search(r"GLOBAL (\S+)", str(error)):
                raise CheckpointError(
                    f"{path} contains {match[1]}, which is code, not data; it was not loaded. "
                    "Save the state_dict alone with the tool that made it."
                ) from None
            raise CheckpointError(
                f"{path} is not a checkpoint that can be read safely ({first_line(error)})."
            ) from None
        except Exception as error:  # a damaged or hostile file can raise anything out of the unpickler
            raise CheckpointError(f"{path} is not a readable checkpoint ({first_line(error)}).") from None
    raise AssertionError("the last stand-in either loads or raises")


_WRONG_KIND = re.compile("Can only (?:SETITEM|append|extend)")


def _require_uncompressed(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({first_line(error)}).") from None
    if compressed:
        raise CheckpointError(f"{path} is a compressed archive; checkpoints are stored uncompressed. Unpack it first.")


def _foreign_names(path: Path) -> list[str]:
    """Classes and functions that a checkpoint names and that are neither torch's nor harmless; none for old formats."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged or hostile file can raise anything here; loading it says what is wrong
        return []


def _harmless() -> list[Any]:
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # what NumPy scalars are pickled as
    rebuild = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    harmless: list[Any] = [*_HARMLESS, (_number_dtype, "numpy.dtype")]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and 1 spell it differently
        harmless += [(scalar, f"{module}.scalar"), (rebuild, f"{module}._reconstruct")]
    return harmless


def _load_with(path: Path, more: list[Any]) -> object:
    with torch.serialization.safe_globals([*_harmless(), *more]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an unusual pickle protocol; what it cannot read is refused
        return torch.load(path, map_location="cpu", weights_only=True)


def _released_renamer(arch: TopFormerConfig, *, segmentation: bool) -> Callable[[str], str]:
    """From the reference code's tensor names to ours; names it does not know are kept, and then refused by name."""
    prefixes = _released_prefixes(arch, segmentation=segmentation)

    def rename(name: str) -> str:
        prefix, _, tensor = name.rpartition(".")
        return f"{prefixes[prefix]}.{tensor}" if prefix in prefixes else name

    return rename


def _released_prefixes(arch: TopFormerConfig, *, segmentation: bool) -> dict[str, str]:
    """Module path in the reference code -> module path in ours, for every module that holds tensors."""
    backbone = "backbone." if segmentation else ""
    pairs: dict[str, str] = {}

    def conv_norm(theirs: str, ours: str, conv: str = "c") -> None:
        pairs[f"{theirs}.{conv}"] = f"{ours}.conv"
        pairs[f"{theirs}.bn"] = f"{ours}.norm"

    conv_norm(f"{backbone}tpm.stem.0", "token_pyramid.stem.conv")
    layer = 0
    stages = (
        ("stride2", arch.stride2),
        *((f"stage{s}", rows) for s, rows in zip(STAGE_STRIDES, arch.stages, strict=True)),
    )
    for stage, rows in stages:
        for index, row in enumerate(rows):
            layer += 1
            parts = ("expansion", "depthwise", "projection") if row.expand != 1 else ("depthwise", "projection")
            for position, part in enumerate(parts):  # an activation sits between them, so every second index
                conv_norm(f"{backbone}tpm.layer{layer}.conv.{2 * position}", f"token_pyramid.{stage}.{index}.{part}")
    for index in range(arch.num_blocks):
        theirs, ours = f"{backbone}trans.transformer_blocks.{index}", f"transformer.{index}"
        conv_norm(f"{theirs}.attn.to_q", f"{ours}.attention.query")
        conv_norm(f"{theirs}.attn.to_k", f"{ours}.attention.key")
        conv_norm(f"{theirs}.attn.to_v", f"{ours}.attention.value")
        conv_norm(f"{theirs}.attn.proj.1", f"{ours}.attention.projection")
        conv_norm(f"{theirs}.mlp.fc1", f"{ours}.ffn.expansion")
        pairs[f"{theirs}.mlp.dwconv"] = f"{ours}.ffn.depthwise.conv"
        conv_norm(f"{theirs}.mlp.fc2", f"{ours}.ffn.projection")
    if not segmentation:
        return pairs | {"head.bn": "head.norm", "head.l": "head.linear"}
    for stride in arch.injected_strides:
        theirs, ours = f"{backbone}SIM.{STAGE_STRIDES.index(stride)}", f"semantic_injection.{stride}"
        conv_norm(f"{theirs}.local_embedding", f"{ours}.local", "conv")
        conv_norm(f"{theirs}.global_embedding", f"{ours}.information", "conv")
        conv_norm(f"{theirs}.global_act", f"{ours}.gate", "conv")
    conv_norm("decode_head.linear_fuse", "head.fuse", "conv")
    pairs["decode_head.conv_seg"] = "head.classifier.conv"
    return pairs
