"""What do the numbers and colours of masks mean, where only names, or names and colours, of classes are given?

Decided from a bounded sample of the masks; what decides nothing is refused with the readings that fit, and a mask that
was not in the sample and says otherwise is refused when it is read (`Doubts`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluators.datasets import IGNORE, Colour
from evaluators.datasets.label_maps import LEAST_BESIDE, PALETTES, Doubts, beside_ignored, unpacked
from evaluators.datasets.places import AmbiguousError
from evaluators.datasets.samples import SHOWN_COLOURS, Seen, masks_seen
from topformer.errors import UserError

if TYPE_CHECKING:
    from evaluators.datasets.files import Pair

MOST_LOOKED_AT = 1000
"""Masks that are looked through for a class whose absence would make 255 a class."""
IGNORED_NAMES = ("ignore", "ignored", "__ignore__")
"""Rows of a class list, in small letters, whose number or colour is neither learnt nor scored."""
_LABELME = "__ignore__"
_OFTEN_IGNORED = ("void", "unlabeled", "unlabelled", "unknown", "dontcare", "don't care", "background_ignore")
_WHITE = (255, 255, 255)
_LEAST_BLENDED, _MOSTLY = 3, 0.8
"""Values at edges alone, and their share of those that stand for no class, from which on edges are softened."""
_SAVE_AGAIN = "Save them again from what they were made of, as PNG, and resize by the nearest pixel alone."
_LEAST_SPAN = 32
"""Between two levels of a format that changes values."""
_SHOWN_NAMES = 4
_BLENDED_NAMES = ("dark", "bright")
"""Of two classes that nobody has named."""


class Row(NamedTuple):
    """A line of a class list."""

    name: str
    colour: Colour | None
    number: int | None = None
    """Where the list itself numbers its rows."""

    @property
    def ignored(self) -> bool:
        return self.name.lower() in IGNORED_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Keys of a description that say what masks hold, and what is not sure of them."""

    values: Mapping[str, Any]
    doubts: Doubts | None
    remarks: tuple[str, ...] = ()


def masks_deciding(root: Path, pairs: Sequence[Pair], rows: Sequence[Row]) -> list[Seen]:
    """The sample; and many more where it lacks one class alone, and 255 may be that one."""
    seen = masks_seen(root, pairs, len(rows))
    used, names = _numbers(seen), [row.name for row in rows if not row.ignored]
    lacks_one = _lacks_one(names, _class_values(used, _table(_numbered(rows)))) if len(rows) < IGNORE else False
    if IGNORE in used and lacks_one and len(pairs) > len(seen):
        return masks_seen(root, pairs, len(rows), most=MOST_LOOKED_AT)
    return seen


def reading_of(root: Path, rows: Sequence[Row], seen: Sequence[Seen]) -> Reading:
    """What the masks mean by the class list. Raises `AmbiguousError` where the sample does not tell."""
    names = tuple(row.name for row in rows if not row.ignored)
    _require_exact(root, names, seen)
    seen = [mask for mask in seen if not mask.lossy]
    if all(row.colour for row in rows) and _shows_colours(root, rows, seen):
        _require_sharp_colours(root, {row.colour for row in rows}, seen)
        classes = [{"name": row.name, "colour": list(row.colour or ())} for row in rows if not row.ignored]
        ignored = [list(row.colour or ()) for row in rows if row.ignored]
        remark = "masks are read by the colours of the class table"
        return Reading(values={"classes": classes, "ignored": ignored}, doubts=None, remarks=(remark,))
    return _by_number(root, rows, seen)


def unnamed(root: Path, seen: Sequence[Seen]) -> Reading:
    """Classes by what occurs, for a person to name. Raises `AmbiguousError` where 255 may be ignored."""
    if any(mask.used is None for mask in seen):
        colours = {colour for mask in seen for colour in (*mask.colours, *mask.shown.values()) if colour is not None}
        if not colours or len(colours) > SHOWN_COLOURS:
            raise UserError(
                f"{root}: masks have over {SHOWN_COLOURS} colours and no classes.csv (name,red,green,blue) says which "
                "stand for classes; write one."
            )
        classes = [{"name": f"colour {r}-{g}-{b}", "colour": [r, g, b]} for r, g, b in sorted(colours)]
        return Reading(values={"classes": classes, "ignored": []}, doubts=None)
    if lossy := next((mask for mask in seen if mask.lossy), None):
        raise UserError(
            f"{root}: masks such as {lossy.path} are of a format that changes values, or hold fractions. {_SAVE_AGAIN} "
            "Of two classes, write a classes.txt with their names first."
        )
    _require_sharp(root, [Row(name, None) for name in _BLENDED_NAMES], seen)
    used = sorted(_numbers(seen))
    if not used or len(used) > IGNORE:
        raise UserError(f"{root}: masks have {len(used)} values, and no classes.txt says which stand for classes.")
    every = {"classes": [{"name": f"value {value}", "value": value} for value in used], "ignored": []}
    if IGNORE not in used or len(used) == 1:
        return Reading(values=every, doubts=None)
    rest = [{"name": f"value {value}", "value": value} for value in used if value != IGNORE]
    raise AmbiguousError(
        root,
        f"masks with the values {_listed(used)} can be read",
        [("255 is a class", every), ("255 is ignored", {"classes": rest, "ignored": [IGNORE]})],
    )


def _shows_colours(root: Path, rows: Sequence[Row], seen: Sequence[Seen]) -> bool:
    """Are masks to be read by the table's colours? Raises `AmbiguousError` where grey masks fit it in both ways."""
    by_colour = {row.colour: number for number, row in enumerate(rows)}
    votes: Counter[str] = Counter()
    for mask in seen:
        votes[_vote(mask, by_colour, rows)] += 1
    if votes["colour"] or votes["number"]:
        return votes["colour"] > votes["number"] or (votes["colour"] == votes["number"] and votes["coloured"] > 0)
    if votes["both"]:
        one = next(mask for mask in seen if _vote(mask, by_colour, rows) == "both")
        raise AmbiguousError(
            root,
            f"masks such as {one.path}, with the values {_listed(one.used or ())}, can be read",
            [
                ("by number, row n of classes.csv is value n", _numbered(rows)),
                ("by colour, a value is the grey of its row", _coloured(rows)),
            ],
        )
    return votes["coloured"] > 0


def _vote(mask: Seen, by_colour: Mapping[Colour | None, int], rows: Sequence[Row]) -> str:
    """colour, number: one reading alone fits. both: the two differ. same, coloured: they agree. none: neither fits."""
    if mask.used is None:
        return "colour"
    shown = [by_colour.get(mask.shown[value]) for value in mask.used]
    seen = [None if row is None else _label_of_row(rows, row) for row in shown]
    read = [_label_of_row(rows, v) if v < len(rows) else IGNORE if v == IGNORE else None for v in mask.used]
    if None in seen or not seen:
        return "none" if None in read else "number"
    if seen == read:
        return "coloured" if mask.kind.startswith("RGB") else "same"
    palette = (mask.kind == "1" and len(mask.used) > 1) or (mask.kind in PALETTES and not _is_ramp(mask))
    return "colour" if palette or max(mask.used) >= len(rows) else "both"


def _is_ramp(mask: Seen) -> bool:
    """Shows a palette each number as the grey of that number?"""
    return all(colour == (value, value, value) for value, colour in mask.shown.items())


def _numbers(seen: Sequence[Seen]) -> frozenset[int]:
    return frozenset(value for mask in seen for value in mask.used or ())


def _require_exact(root: Path, names: tuple[str, ...], seen: Sequence[Seen]) -> None:
    """Raises `UserError` where values were blended; of two classes an `AmbiguousError` with the threshold."""
    if len(names) > 2:
        return
    numbers = [mask for mask in seen if mask.used is not None]
    if lossy := next((mask for mask in numbers if mask.lossy), None):
        cause = f"masks such as {lossy.path} are of a format that changes values, or hold fractions"
        low, high = _ends(numbers)
        if 1 < high < low + _LEAST_SPAN:
            raise UserError(f"{root}: {cause}. {_SAVE_AGAIN}")
        levels = {value for mask in numbers for value in mask.used or () if value not in mask.edges}
        _require_two_levels(root, cause, levels, numbers)
        raise AmbiguousError(root, cause, [_divided(names, numbers)])


def _require_two_levels(root: Path, cause: str, levels: Container[int], seen: Sequence[Seen]) -> None:
    """Raises `UserError` where there are further levels between the darkest and the brightest ones."""
    low, high = _ends(seen)
    near = (high - low) / 8
    if not all(min(value - low, high - value) <= near for value in _numbers(seen) if value in levels):
        raise UserError(f"{root}: {cause}. {_SAVE_AGAIN}")


def _ends(seen: Sequence[Seen]) -> tuple[float, float]:
    return min(mask.ends[0] for mask in seen), max(mask.ends[1] for mask in seen)


def _require_sharp(root: Path, rows: Sequence[Row], seen: Sequence[Seen]) -> None:
    """Raises `UserError` where values that no class has lie at the edges of others alone: these were blended."""
    legal = {*range(len(rows)), IGNORE}
    counts = Counter(value for mask in seen for value in mask.used or ())
    at_edges = Counter(value for mask in seen for value in mask.edges)
    edges = {value for value, count in at_edges.items() if count == counts[value]}
    blended, levels = sorted(edges - legal), sorted(counts.keys() - edges)
    strays = counts.keys() - legal
    if len(blended) < _LEAST_BLENDED or len(blended) < _MOSTLY * len(strays) or len(levels) < 2:
        return
    one = next(mask for mask in seen if mask.edges & set(blended))
    names = tuple(row.name for row in rows if not row.ignored)
    cause = (
        f"masks such as {one.path} have {_listed(levels)} and, at the edges of these alone, {len(blended)} values such "
        f"as {blended[len(blended) // 2]} that stand for no class: softened edges, probably by resizing or by a JPEG"
    )
    if len(names) > 2:
        raise UserError(f"{root}: {cause}. {_SAVE_AGAIN}")
    _require_two_levels(root, cause, levels, seen)
    raise AmbiguousError(root, cause, [_divided(names, seen)])


def _require_sharp_colours(root: Path, known: Container[Colour | None], seen: Sequence[Seen]) -> None:
    """Raises `UserError` where colours that no class has lie at the edges of others alone."""
    for mask in seen:
        blended = [colour for colour in sorted(map(unpacked, mask.edges)) if colour not in known]
        if mask.used is None and len(blended) >= _LEAST_BLENDED:
            raise UserError(
                f"{root}: masks such as {mask.path} have, at the edges of others alone, {len(blended)} colours such as "
                f"{blended[len(blended) // 2]} that stand for no class: softened edges, probably by resizing or by a "
                f"JPEG. {_SAVE_AGAIN}"
            )


def _divided(names: tuple[str, ...], seen: Sequence[Seen]) -> tuple[str, dict[str, Any]]:
    """The reading by a threshold half-way, of one or two names."""
    low, high = _ends(seen)
    both = names if len(names) == 2 else ("background", names[0])
    middle = (low + high) / 2
    threshold = math.ceil(middle) if middle > 1 else middle
    says = f"values from {threshold:g} on are {both[1]!r} and smaller ones {both[0]!r}"
    return says, {"classes": list(both), "threshold": threshold}


def _require_counts(root: Path, rows: Sequence[Row], seen: Sequence[Seen]) -> None:
    """Raises `AmbiguousError` where values do not fit their rows, but fit the names in some other way."""
    used = sorted(_numbers(seen))
    strays = [value for value in used if value >= len(rows) and value != IGNORE]
    seen_all = set(used) >= set(range(len(rows)))
    having = sum(not set(strays).isdisjoint(mask.used or ()) for mask in seen)
    if not strays or (len(strays) == 1 and seen_all and (strays != [len(rows)] or having < min(2, len(seen)))):
        return  # a single one that is wrong is told with the file that has it
    names = [row.name for row in rows if not row.ignored]
    ways = [
        *_in_order(names, used, []),
        *(_in_order(names, [value for value in used if value != IGNORE], [IGNORE]) if IGNORE in used else []),
        *_with_background(names, used, []),
        *(_with_background(names, [value for value in used if value != IGNORE], [IGNORE]) if IGNORE in used else []),
    ]
    if ways:
        kept = _numbered(rows)
        kept["ignored"] = sorted({*kept["ignored"], *strays})
        ways.append((f"row n of the class list is value n, and {_listed(strays)} stand for no class", kept))
        raise AmbiguousError(root, f"masks with the values {_listed(used)}, and {len(names)} names, can be read", ways)


def _in_order(names: Sequence[str], used: Sequence[int], ignored: list[int]) -> list[tuple[str, dict[str, Any]]]:
    """The reading by which the values stand for the names in their order; none where they are not as many."""
    if len(names) != len(used):
        return []
    said = ", ".join(f"{value} is {name!r}" for value, name in list(zip(used, names, strict=True))[:_SHOWN_NAMES])
    more = f", and so on to {used[-1]}, {names[-1]!r}" if len(names) > _SHOWN_NAMES else ""
    classes = [{"name": name, "value": value} for name, value in zip(names, used, strict=True)]
    apart = f", and {_listed(ignored)} is ignored" if ignored else ""
    return [(f"{said}{more}{apart}", {"classes": classes, "ignored": ignored})]


def _with_background(names: Sequence[str], used: Sequence[int], ignored: list[int]) -> list[tuple[str, dict[str, Any]]]:
    """The readings by which the lowest value is what the class list does not name."""
    if len(used) != len(names) + 1:
        return []
    background = next(name for name in ("background", "other", "nothing") if name not in names)
    lowest, *others = used
    further = _in_order([background, *names], used, ignored)[0][1]
    fewer = _in_order(names, others, [lowest, *ignored])[0][1]
    apart = f", and {_listed(ignored)} is ignored" if ignored else ""
    return [
        (f"{lowest} is a background that the class list does not name, {others[0]} is {names[0]!r}{apart}", further),
        (f"{lowest} is ignored, {others[0]} is {names[0]!r}{apart}", fewer),
    ]


def _by_number(root: Path, rows: Sequence[Row], seen: Sequence[Seen]) -> Reading:
    if len(rows) > IGNORE:
        raise UserError(f"{root}: {len(rows)} classes and ignored rows are too many for numbers below {IGNORE}.")
    numbers = [mask for mask in seen if mask.used is not None]
    _require_one_palette(root, rows, numbers)
    _require_own_numbers(root, rows)
    _require_sharp(root, rows, numbers)
    _require_counts(root, rows, numbers)
    by_colour = {row.colour: number for number, row in enumerate(rows)}
    _require_usual_palettes(root, rows, [mask for mask in numbers if _vote(mask, by_colour, rows) != "same"])
    used, names = _numbers(numbers), [row.name for row in rows if not row.ignored]
    chosen = _numbered(rows) if not _is_packed(root, rows, used) else _packed(rows)
    table = _table(chosen)
    beside = frozenset[int]().union(*(beside_ignored(mask.used or (), table) for mask in numbers))
    _require_first(root, rows, used)
    shown = [mask for mask in numbers if IGNORE in (mask.used or ())]
    said = by_colour.keys() >= {_WHITE} and all(_vote(mask, by_colour, rows) in ("same", "coloured") for mask in shown)
    if IGNORE in used and table[IGNORE] == IGNORE and not said:
        _require_sure_ignored(root, rows, used, beside, table)
    doubts = Doubts(
        lone_ignored=IGNORE not in used,
        any_ignored=IGNORE not in used and _lacks_one(names, _class_values(used, table)),
        colours=tuple((row.colour, _label_of_row(rows, number)) for number, row in enumerate(rows) if row.colour),
        palette=_palette_labels(numbers, table),
        num_classes=len(rows),
    )
    return Reading(values=chosen, doubts=doubts, remarks=_remarks(used, rows))


def _require_own_numbers(root: Path, rows: Sequence[Row]) -> None:
    """Raises `AmbiguousError` where the class list numbers its rows otherwise than from 0."""
    numbers = [row.number for row in rows]
    if None in numbers or numbers == list(range(len(rows))) or len(set(numbers)) < len(numbers):
        return
    own = {
        "classes": [_entry(row, row.number or 0) for row in rows if not row.ignored],
        "ignored": [row.number for row in rows if row.ignored],
    }
    raise AmbiguousError(
        root,
        "masks can be read",
        [
            (f"the values are the numbers in the class list, {_listed(numbers)}", own),
            ("row n is value n", _numbered(rows)),
        ],
    )


def _require_first(root: Path, rows: Sequence[Row], used: Iterable[int]) -> None:
    """Raises `AmbiguousError` where every row but the first occurs: the values may begin at 1."""
    known = {value for value in used if value != IGNORE}
    if rows[0].ignored or len(rows) < 2 or known != set(range(1, len(rows))):
        return
    kept = [row for row in rows if not row.ignored]
    from_one = {"classes": [_entry(row, number) for number, row in enumerate(kept, start=1)], "ignored": [0, IGNORE]}
    ways = [
        (f"row n of the class list is value n, and {rows[0].name!r}, value 0, was not seen", _numbered(rows)),
        (f"values begin at 1, which is {kept[0].name!r}", from_one),
    ]
    ways += _in_order([row.name for row in kept], sorted(used), []) if IGNORE in used else []
    raise AmbiguousError(root, f"masks with the values {_listed(sorted(used))} can be read", ways)


def _require_sure_ignored(
    root: Path, rows: Sequence[Row], used: frozenset[int], beside: frozenset[int], table: Sequence[int]
) -> None:
    """Raises `AmbiguousError` where 255 may as well be a class that nothing else stands for."""
    classes = [row.name for row in rows if not row.ignored]
    known = sorted(value for value in used if value != IGNORE)
    there = _class_values(used, table)
    if len(beside) >= LEAST_BESIDE and not _lacks_one(classes, there):
        return
    if len(classes) == 1:
        as_object = {"classes": [{"name": "background", "value": 0}, {"name": classes[0], "value": IGNORE}]}
        says = f"{IGNORE} is {classes[0]!r}, and 0 a background that the class list does not name"
    else:
        values = [*there, IGNORE] if len(there) + 1 == len(classes) else [*range(len(classes) - 1), IGNORE]
        as_object = {"classes": [{"name": n, "value": v} for n, v in zip(classes, values, strict=True)]}
        moved = f", and {there[-1]} is {classes[-2]!r}" if there and table[there[-1]] == len(classes) - 1 else ""
        says = f"{IGNORE} is {classes[-1]!r}{moved}"
    apart = [value for value in known if value < len(table) and table[value] == IGNORE]
    raise AmbiguousError(
        root,
        f"masks with the values {_listed([*known, IGNORE])} can be read",
        [(says, as_object | {"ignored": apart}), (f"{IGNORE} is ignored, and 0 is {classes[0]!r}", _numbered(rows))],
    )


def _class_values(used: Iterable[int], table: Sequence[int]) -> list[int]:
    """Those of the values that stand for a class."""
    return sorted(value for value in used if value < len(table) and 0 <= table[value] != IGNORE)


def _lacks_one(classes: Sequence[str], there: Sequence[int]) -> bool:
    """Was one class alone not seen, of so many that 255 may be that one though others lie beside it?"""
    return len(classes) > 2 and len(there) == len(classes) - 1


def _is_packed(root: Path, rows: Sequence[Row], used: Iterable[int]) -> bool:
    """Are ignored rows left out of the numbers, as labelme does? Raises `AmbiguousError` where nothing tells."""
    ignored = [number for number, row in enumerate(rows) if row.ignored]
    classes = len(rows) - len(ignored)
    if not ignored or ignored[0] >= classes:  # the last rows: left out or not, the others have the same numbers
        return False
    known = {value for value in used if value != IGNORE}
    if not known or max(known) >= classes:
        return False
    labelme, has_255 = rows[ignored[0]].name.lower() == _LABELME, IGNORE in used
    if labelme == has_255:
        return labelme
    raise AmbiguousError(
        root,
        f"masks with the values {_listed(sorted(used))} can be read",
        [
            (f"row n is value n, and {_listed(ignored)} is ignored", _numbered(rows)),
            (f"rows without {rows[ignored[0]].name!r} are numbered from 0, and 255 is ignored", _packed(rows)),
        ],
    )


def _require_one_palette(root: Path, rows: Sequence[Row], masks: Sequence[Seen]) -> None:
    """Raises `UserError` where one colour has another number in another mask: the numbers cannot be of the classes."""
    known: dict[Colour, tuple[int, str]] = {}
    for mask in masks:
        for colour, value in _distinct_colours(mask):
            number, path = known.setdefault(colour, (value, mask.path))
            if number != value:
                cure = "Write a classes.csv (name,red,green,blue) with the colour of each class."
                if all(row.colour for row in rows):
                    cure = f"The class table has not all of their colours: were edges softened? {_SAVE_AGAIN}"
                raise UserError(
                    f"{root}: the colour {colour} has the number {number} in {path} and {value} in {mask.path}: the "
                    f"numbers of these palettes are not those of classes. {cure}"
                )


def _require_usual_palettes(root: Path, rows: Sequence[Row], masks: Sequence[Seen]) -> None:
    odd = next((mask for mask in masks if mask.odd), None)
    if odd is not None:
        greys = {v: c for v, c in odd.shown.items() if c is not None}
        coloured = [{"name": row.name, "colour": [0, 0, 0]} for row in rows if not row.ignored]
        for entry, value in zip(coloured, sorted(greys, key=lambda v: greys[v]), strict=False):
            entry["colour"] = list(greys[value])
        raise AmbiguousError(
            root,
            f"masks such as {odd.path} can be read, since {odd.odd},",
            [
                ("by number", _numbered(rows)),
                ("by colour, which here are put in order from dark to bright", {"classes": coloured, "ignored": []}),
            ],
        )


def _distinct_colours(mask: Seen) -> list[tuple[Colour, int]]:
    """Colours by which a palette tells its numbers apart; none where it shows two numbers alike."""
    found = [(colour, value) for value, colour in mask.shown.items() if colour is not None]
    alike = len({colour for colour, _ in found}) < len(found)
    return [] if alike or mask.kind not in PALETTES or _is_ramp(mask) else found


def _palette_labels(masks: Sequence[Seen], table: Sequence[int]) -> tuple[tuple[Colour, int], ...]:
    found = {colour: value for mask in masks for colour, value in _distinct_colours(mask)}
    return tuple((colour, table[value]) for colour, value in sorted(found.items()) if value < len(table))


def _numbered(rows: Sequence[Row]) -> dict[str, Any]:
    """Row n is value n; 255 is ignored."""
    classes = [_entry(row, number) for number, row in enumerate(rows) if not row.ignored]
    return {"classes": classes, "ignored": [n for n, row in enumerate(rows) if row.ignored] + [IGNORE]}


def _packed(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows that are classes, numbered from 0; 255 is ignored."""
    kept = [row for row in rows if not row.ignored]
    return {"classes": [_entry(row, number) for number, row in enumerate(kept)], "ignored": [IGNORE]}


def _coloured(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "classes": [{"name": row.name, "colour": list(row.colour or ())} for row in rows if not row.ignored],
        "ignored": [list(row.colour or ()) for row in rows if row.ignored],
    }


def _entry(row: Row, value: int) -> dict[str, Any]:
    return {"name": row.name, "value": value} | ({"colour": list(row.colour)} if row.colour else {})


def _table(values: Mapping[str, Any]) -> list[int]:
    """Label by value up to 255."""
    table = [-1] * (IGNORE + 1)
    for label, entry in enumerate(values["classes"]):
        table[entry["value"]] = label
    for value in values["ignored"]:
        table[value] = IGNORE
    return table


def _label_of_row(rows: Sequence[Row], number: int) -> int:
    return IGNORE if rows[number].ignored else sum(not row.ignored for row in rows[:number])


def _remarks(used: Iterable[int], rows: Sequence[Row]) -> tuple[str, ...]:
    found = [f"row {n} of the class list, {row.name!r}, is ignored" for n, row in enumerate(rows) if row.ignored]
    if IGNORE in used:
        found.append(f"{IGNORE} is ignored: it lies beside several classes, and the class list has no such row")
    found += [
        f"{row.name!r} is learnt like any other class; if it is not one, call its row ignore"
        for row in rows
        if row.name.lower() in _OFTEN_IGNORED
    ]
    return tuple(found)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
