"""Where do images and masks of one's own lie, and which are for validation? The layouts that people have.

Each is a pair of patterns of `evaluators.datasets.description`; what fits a folder in two ways is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluators.datasets.description import ANY, IMAGE_SUFFIXES, MASK_SUFFIXES, NAME, SPARE_SUFFIXES, SPLIT
from evaluators.datasets.files import DataError, Named, Pair, by_name, pairs_of, polygon_files, quoted, read_list
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets import Split
    from evaluators.datasets.description import Description

USUAL = ("images", "masks")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "photos", "pictures", "leftimg8bit", "rgb")
MASK_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "ann_dir",
    "annot",
    "segmentationclass",
    "segmentationclasspng",
    "segmentationclassaug",
    "segmentation",
    "gt",
    "gtfine",
    "ground_truth",
    "groundtruth",
)
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "validate", "vali", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SPLITS = tuple(name for names in SPLIT_NAMES.values() for name in names)
LIST_HOMES = (".", "splits", "split", "lists", "list", "imagesets", "imagesets/segmentation", "image_sets", "sets")
LIST_SUFFIXES = (".txt", ".lst")
HELD_OUT = 10
LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("folders by split", "images/{split}/{name}.*", "masks/{split}/{name}.*"),
    ("split first", "{split}/images/{name}.*", "{split}/masks/{name}.*"),
    ("lists, or one image in ten held out", "images/{name}.*", "masks/{name}.*"),
    ("Pascal VOC", "JPEGImages/{name}.*", "SegmentationClass/{name}.*"),
    ("mmsegmentation", "img_dir/{split}/{name}.*", "ann_dir/{split}/{name}.*"),
    ("a pair of folders a split", "{split}_images/{name}.*", "{split}_masks/{name}.*"),
    ("masks of another suffix", "images/{split}/{name}.*", "masks/{split}/{name}_mask.*"),
    ("images beside their masks", "{split}/{name}.jpg", "{split}/{name}_mask.png"),
)
"""Examples of what is recognised, for people: title, images, masks."""
_SHOWN = 3
_DECORATION = re.compile(r"[-_ ]*(?:sets?|data|splits?|\d+)$")
_LISTED = re.compile(r"[-_ ]*(?:list|files?|names|images|ids?)$", re.IGNORECASE)
_SEPARATORS = "_-. "
_LOOKED_AT = 20


class AmbiguousError(UserError):
    """A guess that two readings fit: each in words and as keys of a description. Of one alone a person says so."""

    def __init__(self, root: Path, what: str, ways: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.what, self.ways = what, tuple(ways)
        command = f"topformer-nas datasets describe {quoted(root)}"
        if len(self.ways) == 1:
            super().__init__(
                f"{root}: {what}. If {self.ways[0][0]}, say so in a dataset.toml, which this writes: {command}"
            )
            return
        said = "; ".join(f"({number}) {says}" for number, (says, _) in enumerate(self.ways, start=1))
        super().__init__(
            f"{root}: {what} in {'two' if len(self.ways) == 2 else len(self.ways)} ways: {said}. Choose one in a "
            f"dataset.toml; this writes all for you to choose from: {command}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Keys of a description that say where files are."""

    images: str
    masks: str
    splits: Mapping[Split, str]
    lists: str | None = None
    held_out: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = {"images": self.images, "masks": self.masks}
        if self.held_out is None:
            found["splits"] = dict(self.splits)
        return found | {k: v for k, v in (("lists", self.lists), ("held_out", self.held_out)) if v is not None}


class Home(NamedTuple):
    """Patterns of folders, without the files' names."""

    images: str
    masks: str


def found_places(root: Path) -> Places | None:
    """None for a folder that has no images beside masks. Raises `UserError` for a split that is not sure."""
    homes = _homes(root)
    if not homes:
        return _side_by_side(root)
    if (polygons := polygon_files(root)) and not any(_pairs_at_all(root, home) for home in homes):
        raise UserError(polygons)
    if len(homes) > 1:
        raise AmbiguousError(
            root,
            "images and masks can be found",
            [(f"{home.images} with {home.masks}", _values(root, home)) for home in homes],
        )
    return _with_affixes(root, _split(root, homes[0]))


def _values(root: Path, home: Home) -> dict[str, Any]:
    """Keys of a description by one of several pairs of folders, as far as they can be told."""
    try:
        return _with_affixes(root, _split(root, home)).values
    except UserError:
        return {"images": _any_in(home.images), "masks": _any_in(home.masks)}


def has_places(root: Path) -> bool:
    """Is there a folder of images beside one of masks, whatever else is wrong with them?"""
    return bool(_homes(root)) or _side_by_side(root) is not None


def files_of(root: Path, description: Description) -> tuple[dict[Split, tuple[Pair, ...]], tuple[str, ...]]:
    """Pairs of each split and what has no partner. Raises `UserError`."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    names = {split: name for split in splits if (name := description.split_name(split)) is not None}
    if description.lists is not None:
        return _listed(root, description, names)
    if description.held_out is not None:
        return _held_out_of(root, description)
    found = {
        split: pairs_of(
            root, description.image_files(name), description.mask_files(name), only=_only(root, description, name)
        )
        for split, name in names.items()
    }
    if "test" in found and not found["test"][0]:  # many test sets come without labels: nothing can be scored on them
        del found["test"]
    return {split: pairs for split, (pairs, _) in found.items()}, tuple(p for _, alone in found.values() for p in alone)


def _only(root: Path, description: Description, name: str) -> Iterable[str] | None:
    """Where the masks of all splits lie in one folder, those of the split's images."""
    if SPLIT in description.masks:
        return None
    return by_name(root, description.image_files(name)).keys()


def _homes(root: Path) -> list[Home]:
    """Pairs of folders that may hold images and masks; of several that do not pair at all, the first."""
    below = _folders(root)
    masks = _known(below, MASK_FOLDERS)
    others = [name for name in below if name not in masks and not role_of(name)]
    flat = [Home(i, m) for i in _known(below, IMAGE_FOLDERS) or others for m in masks]
    if (usual := Home(*USUAL)) in flat:
        beside = [home for home in flat if home.images == usual.images and home != usual]
        others_too = [home for home in beside if _pairs_at_all(root, home)]
        return [usual, *others_too] if others_too and _pairs_at_all(root, usual) else [usual]
    homes = [*flat, *_homes_split_first(root, below), *_homes_with_split_in_names(below)]
    known = [home for home in homes if home.images not in others or home.images.lower() in IMAGE_FOLDERS]
    return [home for home in homes if _pairs_at_all(root, home)] or known[:1]


def _homes_split_first(root: Path, below: Sequence[str]) -> list[Home]:
    """{split}/images beside {split}/masks."""
    inside = [set(_folders(root / name)) for name in below if role_of(name) in ("train", "val")]
    common = sorted(set.intersection(*inside)) if inside else []
    pairs = [(i, m) for i in _known(common, IMAGE_FOLDERS) for m in _known(common, MASK_FOLDERS)]
    return [Home(f"{SPLIT}/{i}", f"{SPLIT}/{m}") for i, m in ([USUAL] if USUAL in pairs else pairs)]


def _homes_with_split_in_names(below: Sequence[str]) -> list[Home]:
    """train_images beside train_masks, or train beside trainannot."""
    rests: dict[str, set[str]] = {}
    for name in below:
        start = next((s for s in sorted(_SPLITS, key=len, reverse=True) if name.lower().startswith(s)), "")
        rest = name[len(start) :]
        if role_of(start) in ("train", "val") and _plain(rest) in ("", *IMAGE_FOLDERS, *MASK_FOLDERS):
            rests.setdefault(start, set()).add(rest)
    common = sorted(set.intersection(*rests.values())) if rests else []
    images = [rest for rest in common if _plain(rest) in ("", *IMAGE_FOLDERS)]
    masks = [rest for rest in common if _plain(rest) in MASK_FOLDERS]
    return [Home(f"{SPLIT}{i}", f"{SPLIT}{m}") for i in images for m in masks]


def _side_by_side(root: Path) -> Places | None:
    """{split} with images and masks in one folder, told by their suffixes: x.jpg and x_mask.png."""
    roles: dict[Split, str] = {role: name for name in _folders(root) if (role := role_of(name)) is not None}
    if not {"train", "val"} <= roles.keys():
        return None
    names = [Path(name) for name in _files(root / roles["train"], "")[:_LOOKED_AT] if name[:1] != "."]
    for image_end in sorted({path.suffix for path in names if path.suffix.lower() in IMAGE_SUFFIXES}):
        images = {path.stem for path in names if path.suffix == image_end}
        for mask_end in sorted({path.suffix for path in names if path.suffix.lower() in MASK_SUFFIXES} - {image_end}):
            masks = [path.stem for path in names if path.suffix == mask_end]
            affixes = [_NOTHING] if images & set(masks) else _residues(images, masks)
            if len(affixes) == 1:
                pattern = f"{SPLIT}/{affixes[0].start}{NAME}{affixes[0].end}{mask_end}"
                return Places(images=f"{SPLIT}/{NAME}{image_end}", masks=pattern, splits=roles)
    return None


def _pairs_at_all(root: Path, home: Home) -> bool:
    """Has a mask the name of an image, or its name and more?"""
    for split in _split_candidates(root, home) or [""]:
        images, masks = (
            {name.rpartition("/")[2]: path for name, path in by_name(root, which).items()}
            for which in (_images_in(home.images.replace(SPLIT, split)), _masks_in(home.masks.replace(SPLIT, split)))
        )
        if images.keys() & masks.keys() or _residues(images, masks):
            return True
    return False


def _images_in(folder: str) -> Named:
    return Named(folder, IMAGE_SUFFIXES)


def _masks_in(folder: str) -> Named:
    return Named(folder, MASK_SUFFIXES, SPARE_SUFFIXES)


def _split(root: Path, home: Home) -> Places:
    """How the images of a pair of folders are split: by folders, lists, or one in ten held out."""
    if SPLIT in home.images:
        return _of_folders(root, home, _roles(root, _split_candidates(root, home), f"folders {home.images}"))
    inside = {part: [n for n in _folders(root / part) if role_of(n)] for part in home}
    roles = _roles(root, inside[home.images], f"folders in {home.images}")
    if "train" in roles and "val" in roles:
        masks = f"{home.masks}/{SPLIT}" if inside[home.masks] else home.masks
        found = _of_folders(root, Home(f"{home.images}/{SPLIT}", masks), roles)
        _require_lists_agree(root, home, found)
        return found
    flat = Places(images=_any_in(home.images), masks=_any_in(home.masks), splits={}, held_out=HELD_OUT)
    if lists := _lists(root, flat):
        return lists
    if "train" in roles:
        masks = f"{home.masks}/{SPLIT}" if inside[home.masks] else home.masks
        _require_val(root, Home(f"{home.images}/{SPLIT}", masks), roles, _folders(root / home.images))
    if roles or inside[home.masks]:
        _require_both(root, roles, home.images, "folder")
    return flat


def _require_lists_agree(root: Path, home: Home, found: Places) -> None:
    """Raises `AmbiguousError` where there are lists, too, that split the images otherwise than their folders do."""
    flat = Places(images=_any_in(home.images), masks=_any_in(home.masks), splits={})
    try:
        lists = _lists(root, flat)
    except UserError:  # a half of a split, or two: not as good as the folders
        return
    if lists is None or lists.lists is None:
        return
    images = by_name(root, _images_in(home.images))
    short = {name.rpartition("/")[2]: path for name, path in images.items()}
    for split, name in lists.splits.items():
        lines = read_list(root / lists.lists.replace(SPLIT, name))
        listed = {one for line in lines if (one := _one_of(line.split()[0], home.images, images, short))}
        folder = f"{home.images}/{found.splits.get(split, '')}/"
        if listed and listed != {path for path in images.values() if path.startswith(folder)}:
            ways = [
                (f"by the folders {found.images}", found.values),
                (f"by the lists {lists.lists}, which say otherwise", lists.values),
            ]
            raise AmbiguousError(root, "images can be split", ways)


def _one_of(text: str, folder: str, images: Mapping[str, str], short: Mapping[str, str]) -> str | None:
    """The image that a word of a list names."""
    names = _names_of(text, _images_in(folder))
    return next((known[name] for known in (images, short) for name in names if name in known), None)


def _require_val(root: Path, home: Home, roles: Mapping[Split, str], there: Sequence[str]) -> None:
    """Raises `AmbiguousError` where some images are called training ones and none validation ones."""
    if "val" in roles:
        return
    train = roles["train"]
    folders = Places(images=_any_in(home.images), masks=_any_in(home.masks), splits={})
    ways = [
        (f"{name} is for validation", replace(folders, splits={"train": train, "val": name}))
        for name in there
        if name != train
    ]
    alone = Home(home.images.replace(SPLIT, train), home.masks.replace(SPLIT, train))
    held_out = Places(images=_any_in(alone.images), masks=_any_in(alone.masks), splits={}, held_out=HELD_OUT)
    ways.append((f"of {train} one image in {HELD_OUT} is held out for validation", held_out))
    known = ", ".join(SPLIT_NAMES["val"])
    what = f"no folder in {home.images} is called as one for validation ({known}), so that images can be split"
    raise AmbiguousError(root, what, [(says, places.values) for says, places in ways])


def _of_folders(root: Path, home: Home, roles: Mapping[Split, str]) -> Places:
    if "train" in roles:
        _require_val(root, home, roles, list(roles.values()))
    _require_both(root, roles, home.images, "folder")
    for name in roles.values():
        masks = root / home.masks.replace(SPLIT, name)
        if roles.get("test") != name and not masks.is_dir():
            raise UserError(
                f"{root}: {home.images.replace(SPLIT, name)} has images, but there is no folder "
                f"{home.masks.replace(SPLIT, name)} of their masks; call both folders of a split alike."
            )
    return Places(images=_any_in(home.images), masks=_any_in(home.masks), splits=roles)


def _split_candidates(root: Path, home: Home) -> list[str]:
    """Names of splits for which a pattern that begins with {split} leads to a folder; none for other patterns."""
    before, placeholder, after = home.images.partition(SPLIT)
    if before or not placeholder:
        return []
    rest, _, inner = after.partition("/")
    found = [name[: len(name) - len(rest)] for name in _folders(root) if name.endswith(rest)]
    return [name for name in found if role_of(name) and (root / f"{name}{rest}" / inner).is_dir()]


def _roles(root: Path, names: Sequence[str], where: str) -> dict[Split, str]:
    found: dict[Split, str] = {}
    for name in names:
        role = role_of(name) or role_of_list(name)
        assert role is not None
        if role in found:
            raise UserError(
                f"{root}: {where}: {found[role]} and {name} both look like {role}; say which is in a dataset.toml, "
                f'such as splits = {{ train = "train", val = "{name}" }}.'
            )
        found[role] = name
    return found


def _require_both(root: Path, roles: Mapping[Split, str], where: str, kind: str) -> None:
    """Raises `UserError` where a split is named and its counterpart is not: nobody knows what was meant."""
    absent: list[Split] = [part for part in ("train", "val") if part not in roles]
    if absent:
        there = " and ".join(roles.values()) or "none by a name of a split"
        known = "; ".join(f"{part}: {', '.join(SPLIT_NAMES[part])}" for part in absent)
        raise UserError(
            f"{root}: of {kind}s in {where} there {'are' if len(roles) > 1 else 'is'} {there}, and none for "
            f"{' and '.join(absent)}: is another {kind} meant, or a part of the images held out? Call a {kind} as a "
            f"split ({known}), or say it in a dataset.toml, which this shows: topformer-nas datasets layouts --example"
        )


def role_of(name: str) -> Split | None:
    """Which split a folder or a list is by its name."""
    plain = _DECORATION.sub("", name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def role_of_list(name: str) -> Split | None:
    """Likewise for the name of a list, which may say that it is one."""
    return role_of(_LISTED.sub("", name))


def _lists(root: Path, flat: Places) -> Places | None:
    """The places as lists split them; None without lists. Raises `UserError` where a half of them is there."""

    def listed(pattern: str, roles: Mapping[Split, str]) -> Places:
        return replace(flat, splits=roles, lists=pattern, held_out=None)

    complete: list[tuple[str, dict[Split, str]]] = []
    partial: list[tuple[str, dict[Split, str]]] = []
    sure = False  # lists where lists usually are come before those in other folders
    for home in _list_homes(root, flat):
        for end in LIST_SUFFIXES:
            names = [name.removesuffix(end) for name in _files(root / home, end)]
            roles = _roles(root, [name for name in names if role_of_list(name)], f"lists in {home}")
            pattern = f"{SPLIT}{end}" if home == "." else f"{home}/{SPLIT}{end}"
            usual = home.lower() in LIST_HOMES
            if not roles or not (usual or (not sure and _names_images(root, flat, pattern, roles))):
                continue
            sure |= usual and {"train", "val"} <= roles.keys()
            (complete if {"train", "val"} <= roles.keys() else partial).append((pattern, roles))
    first = complete[0][0] if complete else ""
    if len(complete) > 1 and "/" in first:
        ways = [(f"by the lists {pattern}", listed(pattern, roles).values) for pattern, roles in complete]
        raise AmbiguousError(root, "images can be split", ways)
    if not complete and partial:
        pattern, roles = partial[0]
        _require_both(root, roles, pattern.rpartition("/")[0] or "it", "list")
    return listed(*complete[0]) if complete else None


def _list_homes(root: Path, flat: Places) -> list[str]:
    """Folders that may hold lists: this one, those that lists are usually in, and all others but those of images."""
    used = {flat.images.partition("/")[0], flat.masks.partition("/")[0]}
    below = [name for name in _folders(root) if name not in used]
    there = [".", *below, *(f"{name}/{inner}" for name in below for inner in _folders(root / name))]
    usual = [home for known in LIST_HOMES for home in there if home.lower() == known]
    return usual + [home for home in there if home not in usual]


def _files(folder: Path, end: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith(end) and entry.is_file())


def _names_images(root: Path, flat: Places, pattern: str, roles: Mapping[Split, str]) -> bool:
    """Do the lists of a folder of any name begin with names of images?"""
    folder = flat.images.rpartition("/")[0]
    images = by_name(root, _images_in(folder))
    short = {name.rpartition("/")[2]: path for name, path in images.items()}
    for name in roles.values():
        lines = read_list(root / pattern.replace(SPLIT, name))[:_LOOKED_AT]
        if any(_one_of(re.split(r"[\s,;]+", line)[0], folder, images, short) for line in lines):
            return True
    return False


def _with_affixes(root: Path, places: Places) -> Places:
    """With what the names of masks, or of images, have more than the others, where equal names pair nothing."""
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    for split in places.splits.values() if SPLIT in places.images else [""]:
        folders = (each.replace(SPLIT, split).rpartition("/")[0] for each in (places.images, places.masks))
        which = (kind(folder) for kind, folder in zip((_images_in, _masks_in), folders, strict=True))
        for found, named in zip((images, masks), which, strict=True):
            found |= {f"{split}/{name}" if split else name: path for name, path in by_name(root, named).items()}
    if not images or not masks or images.keys() & masks.keys():
        return places
    for own in dict.fromkeys((_NOTHING, _Affix("", _common_end(images)), _Affix(_common_start(images), ""))):
        known = {bare for name in images if (bare := _without(name, own)) is not None}
        affixes = _residues(known, masks)
        ways = [replace(places, images=_with(places.images, own), masks=_with(places.masks, one)) for one in affixes]
        if len(ways) > 1:
            said = [
                (f"masks {f'end in {affix.end}' if affix.end else f'begin with {affix.start}'}", way.values)
                for affix, way in zip(affixes, ways, strict=True)
            ]
            what = "masks can be found (if each image has several, one a class, put them into one first)"
            raise AmbiguousError(root, what, said)
        if ways:
            return ways[0]
    return places


class _Affix(NamedTuple):
    """What the name of a file has more than what an image and its mask have in common."""

    start: str
    end: str


_NOTHING = _Affix("", "")


def _residues(images: Container[str], masks: Iterable[str]) -> list[_Affix]:
    """What the names of masks have more than those of their images: of most images, and one alone where it is sure."""
    counts: Counter[_Affix] = Counter()
    for path in masks:
        folder, _, name = path.rpartition("/")
        above = f"{folder}/" if folder else ""
        ends = [_Affix("", name[cut:]) for cut in range(len(name) - 1, 0, -1) if name[cut] in _SEPARATORS]
        starts = [_Affix(name[: cut + 1], "") for cut in range(len(name) - 1) if name[cut] in _SEPARATORS]
        fitting = (a for a in (*ends, *starts) if above + name[len(a.start) : len(name) - len(a.end)] in images)
        counts.update([affix] if (affix := next(fitting, None)) else [])
    most = max(counts.values(), default=0)
    return sorted(affix for affix, count in counts.items() if count == most)


def _without(path: str, affix: _Affix) -> str | None:
    folder, slash, name = path.rpartition("/")
    if not (name.startswith(affix.start) and name.endswith(affix.end)):
        return None
    return folder + slash + name[len(affix.start) : len(name) - len(affix.end)]


def _common_end(paths: Iterable[str]) -> str:
    """What all names end in from their last separator on, such as _leftImg8bit; empty where they differ."""
    names = [path.rpartition("/")[2] for path in paths]
    ends = {name[max(name.rfind("_"), name.rfind("-")) :] if {"_", "-"} & set(name) else "" for name in names}
    return ends.pop() if len(ends) == 1 else ""


def _common_start(paths: Iterable[str]) -> str:
    """What all names begin with up to their first separator, such as img_; empty where they differ."""
    starts = {re.match(r"[A-Za-z]*[-_]|", path.rpartition("/")[2]).group() for path in paths}  # type: ignore[union-attr]
    return starts.pop() if len(starts) == 1 else ""


def _any_in(folder: str) -> str:
    return f"{folder}/{NAME}{ANY}"


def _with(pattern: str, affix: _Affix) -> str:
    return pattern.replace(NAME, affix.start + NAME + affix.end)


def _held_out_of(root: Path, description: Description) -> tuple[dict[Split, tuple[Pair, ...]], tuple[str, ...]]:
    assert description.held_out is not None
    images, masks = description.image_files(""), description.mask_files("")
    pairs, unpaired = pairs_of(root, images, masks)
    names = {path: name for name, path in by_name(root, images).items()}
    held_out = _held_out([names[pair.image] for pair in pairs], description.held_out)
    return {
        "train": tuple(pair for pair in pairs if names[pair.image] not in held_out),
        "val": tuple(pair for pair in pairs if names[pair.image] in held_out),
    }, unpaired


def _held_out(names: Iterable[str], one_in: int) -> set[str]:
    """One name in so many, or one at least, by a hash: what is added later moves none of the others."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    chosen = {name for name in ordered if hashlib.sha256(os.fsencode(name)).digest()[0] % one_in == 0}
    return set(ordered[:1]) if not chosen or len(chosen) == len(ordered) else chosen


def _listed(
    root: Path, description: Description, names: Mapping[Split, str]
) -> tuple[dict[Split, tuple[Pair, ...]], tuple[str, ...]]:
    assert description.lists is not None
    lists = {split: root / description.lists.replace(SPLIT, name) for split, name in names.items()}
    images, masks = by_name(root, description.image_files("")), by_name(root, description.mask_files(""))
    which = description.image_files(""), description.mask_files("")
    found = {split: _Listed(root, path, which, images, masks) for split, path in lists.items()}
    if not any(each.pairs for each in found.values()) and any(each.absent for each in found.values()):
        first = next(each for each in found.values() if each.absent)
        raise DataError(f"{first.path}: {first.absent[0]!r} is no image here; {_LINE}")
    if "test" in found and not found["test"].pairs:
        del found["test"]
    for one, other in combinations(found, 2):
        if twice := found[one].names & found[other].names:
            raise UserError(
                f"{found[other].path} lists {min(twice)!r}, which {found[one].path.name} lists too; keep one of them."
            )
    return {split: tuple(sorted(each.pairs)) for split, each in found.items()}, tuple(
        path for each in found.values() for path in each.unpaired
    )


_LINE = (
    "a line is the name of an image below its folder, with or without a suffix, or the paths of an image and its mask "
    "below this folder with a blank between."
)


class _Listed:
    """The pairs of one list."""

    def __init__(
        self,
        root: Path,
        path: Path,
        both: tuple[Named, Named],
        images: Mapping[str, str],
        masks: Mapping[str, str],
    ) -> None:
        self.path = path
        which = both[0]
        self.names: set[str] = set()
        self.absent: list[str] = []
        self.pairs: set[Pair] = set()
        alone: set[str] = set()
        for number, text in enumerate(read_list(path), start=1):
            line = text if text in images else text.replace("\\", "/")  # as Windows writes paths
            name = next((n for n in _names_of(line, which) if n in images or n in masks), None)
            if name is not None:
                self.names.add(name)
                if name in images and name in masks:
                    self.pairs.add(Pair(images[name], masks[name]))
                else:
                    alone.add(images.get(name) or masks[name])
            elif pair := _two_paths(root, line, both, images, masks):
                self.names.add(_names_of(pair.image, which)[0])
                self.pairs.add(pair)
            elif len(re.split(r"[\s,;]+", line)) > 1:
                raise DataError(f"{path}, line {number}: {line[:200]!r} names no image here; {_LINE}")
            else:
                self.absent.append(_names_of(line, which)[0])
        self.unpaired = (*sorted(alone), *(f"{which.folder}/{name}" for name in sorted(set(self.absent))))
        self.names |= set(self.absent)


def _names_of(line: str, which: Named) -> tuple[str, ...]:
    """What a line may name: the path below the folder of the images, with or without folder and suffix."""
    below = line.removeprefix("./").removeprefix("/").removeprefix(f"{which.folder}/")
    known = (*which.suffixes, *which.spare, *IMAGE_SUFFIXES)
    suffix = next((each for each in known if below.lower().endswith(each.lower())), "")
    return below[: len(below) - len(suffix)], below


def _two_paths(
    root: Path, line: str, both: tuple[Named, Named], images: Mapping[str, str], masks: Mapping[str, str]
) -> Pair | None:
    """The pair that a line of two columns names; None where it names none."""
    for separator in ("\t", ",", ";", None):
        columns = [part.strip() for part in line.split(separator) if part.strip()]
        if len(columns) == 2:
            image, labels = (
                next((known[name] for name in _names_of(column, which) if name in known), None)
                for column, which, known in zip(columns, both, (images, masks), strict=True)
            )
            labels = labels or _inside(root, columns[1].removeprefix("./").removeprefix("/"))
            if image and labels:
                return Pair(image, labels)
    return None


def _inside(root: Path, path: str) -> str | None:
    """A path that leads to a file below the root, without leaving it."""
    return path if ".." not in path.split("/") and (root / path).is_file() else None


def _folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none where it is none."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _plain(rest: str) -> str:
    return rest.lower().strip(_SEPARATORS)


def _known(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower() in known]
