"""What does `--recipe` name? One that comes with the product or a TOML file, for a data set and an architecture."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from evaluators.datasets.named import LAYOUTS, SCENES
from evaluators.recipe import Augmentation, Protocol, ResizedCrop, TrainingRecipe
from topformer.config import ANCHORS
from topformer.errors import UserError, unknown_name
from topformer.reading import MIB, file_text, parse_toml

_T = TypeVar("_T")

SUFFIX = ".toml"
_SHOWN = 80
_TOP = {"about", "training", "protocol", "anchors", "datasets"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFile:
    """How to train and, for segmentation, how to judge."""

    name: str
    about: str
    training: TrainingRecipe
    protocol: Protocol | None
    """None: classification, which has one way."""


def shipped_recipes() -> tuple[str, ...]:
    folder = files("experiments.training.recipes")
    return tuple(sorted(path.name.removesuffix(SUFFIX) for path in folder.iterdir() if path.name.endswith(SUFFIX)))


def recipe_named(text: str, *, dataset: str, anchor: str | None, changes: Iterable[str] = ()) -> RecipeFile:
    """A shipped name or the path of a TOML file, as it is for a data set and for one of T, S and B.

    `changes` are settings like "training.iterations=2000" on top. Raises `UserError` naming file and setting.
    """
    content = _read(text)
    values: dict[str, Any] = {part: content[part] for part in ("training", "protocol") if part in content}
    for override in _overrides(content, dataset, anchor, text):
        values = _merged(values, override)
    for change in changes:
        values = _merged(values, _change(change))
    if "training" not in values:
        raise UserError(f"recipe {text} has no section [training].")
    if stranger := next((part for part in values if part not in ("training", "protocol")), None):
        raise unknown_name("section of a recipe", stranger, ("training", "protocol"))
    return RecipeFile(
        name=Path(text).stem,
        about=str(content.get("about", "")),
        training=_training(values["training"], f"recipe {text}, training"),
        protocol=protocol_of(values["protocol"], f"recipe {text}") if "protocol" in values else None,
    )


def protocol_of(values: Mapping[str, Any], where: str) -> Protocol:
    """From settings by name. Raises `UserError` naming `where` and setting."""
    return _checked(Protocol, values, f"{where}, protocol")


def _read(text: str) -> dict[str, Any]:
    if text in shipped_recipes():
        return tomllib.loads((files("experiments.training.recipes") / f"{text}{SUFFIX}").read_text(encoding="utf-8"))
    path = Path(text)
    if path.suffix != SUFFIX:
        raise unknown_name("recipe", text, shipped_recipes(), advice="Or give the path of a .toml file.")
    content = parse_toml(file_text(path, "the recipe", most_bytes=MIB), f"recipe {text}")
    if "base" in content:  # an own file may change a shipped one
        base = content.pop("base")
        if base not in shipped_recipes():
            raise unknown_name(f"base of recipe {text}", base, shipped_recipes())
        content = _merged(_read(base), content)
    if stranger := next((key for key in content if key not in _TOP), None):
        raise unknown_name(f"section of recipe {text}", stranger, (*_TOP, "base"))
    return content


def _overrides(content: Mapping[str, Any], dataset: str, anchor: str | None, text: str) -> Iterable[dict[str, Any]]:
    """For the data set, then for the anchor on it."""
    by_dataset = _table(content, "datasets", text)
    by_anchor = _table(content, "anchors", text)
    for what, given, known in (("data set", by_dataset, (*LAYOUTS, SCENES)), ("anchor", by_anchor, ANCHORS)):
        if stranger := next((name for name in given if name not in known), None):
            raise unknown_name(f"{what} of recipe {text}", stranger, known)
    own = _table(by_dataset, dataset, text)
    if "like" in own:
        other = own.pop("like")
        if not isinstance(other, str) or other not in by_dataset:
            raise UserError(f"recipe {text}: datasets.{dataset} is like {_shown(other)}, which it does not have.")
        like = _table(by_dataset, other, text)
        if "like" in like:
            raise UserError(f"recipe {text}: datasets.{dataset} is like {other!r}, which is like another one itself.")
        yield like
    yield own
    yield _table(_table(by_anchor, anchor or "", text), dataset, text)


def _table(values: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """A section of a recipe, or an empty one."""
    found = values.get(name, {})
    if not isinstance(found, Mapping):
        raise UserError(f"recipe {text}: {name} must be a section of settings, not {_shown(found)}.")
    return dict(found)


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _change(text: str) -> dict[str, Any]:
    """ "training.iterations=2000" as nested tables."""
    name, equals, value = text.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or not all(part.isidentifier() for part in parts):
        raise UserError(f"--set takes SETTING=VALUE, such as training.iterations=2000, not {_shown(text)}.")
    try:
        table = parse_toml(f"value = {value}", "--set")
    except UserError:
        table = {"value": value.strip()}  # a bare word
    if len(table) > 1:
        raise UserError(f"--set takes one SETTING=VALUE; give it again for the next, not {_shown(text)}.")
    parsed = table["value"]
    if parts[0] not in ("training", "protocol"):
        parts.insert(0, "training")
    nested: Any = parsed
    for part in reversed(parts):
        nested = {part: nested}
    assert isinstance(nested, dict)
    return nested


def _training(values: Any, where: str) -> TrainingRecipe:
    """The augmentation is of the kind whose settings it has."""
    given = values.get("augmentation") if isinstance(values, Mapping) else None
    if isinstance(given, Mapping):
        kind = ResizedCrop if "size_px" in given else Augmentation
        values = {**values, "augmentation": _checked(kind, given, f"{where}.augmentation")}
    return _checked(TrainingRecipe, values, where)


def _checked(kind: type[_T], values: object, where: str) -> _T:
    """Unknown settings, missing ones and wrong types are refused by name; what the type itself refuses is too."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a section of settings, not {_shown(values)}.")
    legal = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]  # a dataclass
    if stranger := next((name for name in values if name not in legal), None):
        raise unknown_name(f"setting of {where}", stranger, legal)
    for field in fields(kind):  # type: ignore[arg-type]
        if isinstance(values.get(field.name), bool) and "bool" not in str(field.type):  # else it would count as 0 or 1
            raise UserError(f"{where}: {field.name} must be a number or a word, not {values[field.name]}.")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0] if first["loc"] else "the section"
        said = "is missing" if first["type"] == "missing" else f"{first['msg'].lower()}, not {_shown(first['input'])}"
        raise UserError(f"{where}: {name} {said}.") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
