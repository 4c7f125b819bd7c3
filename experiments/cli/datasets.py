"""The `topformer-nas datasets` commands: parse, make one call, print."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.terminal import AsJson, console_of, print_json, print_rows, progress_bar

if TYPE_CHECKING:
    from evaluators.datasets.checking import Checkable, DatasetReport, SplitReport

MOST_PROBLEMS = 20
MOST_CLASSES = 5
"""Listed for people; --json lists all."""

datasets = typer.Typer(help="Check labelled images, and list the layouts that are read.", no_args_is_help=True)


@datasets.command("check")
def datasets_check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder of a data set, LAYOUT:FOLDER, scenes or scenes:CLASSES.")
    ],
    sample: Annotated[
        int | None, typer.Option(metavar="N", help="Look at N images of each split. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that read. [default: all cores]")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the classes' frequencies to a .png, .svg or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every image and label map: counts, sizes, classes, a fingerprint, and every file that is not sound.

    Exit code 0: sound; 1: problems were found.
    """
    from evaluators.datasets.checking import MOST_WORKERS, check
    from evaluators.datasets.named import any_dataset_named

    if plot is not None:
        from experiments.reports.figures import require_figure

        require_figure(plot)
    dataset = any_dataset_named(path)
    with progress_bar() as bar:
        fingerprint, why_none = _fingerprint(dataset, lambda done, total: bar(done, total, "fingerprint"))
        report = check(
            dataset,
            sample=sample,
            seed=seed,
            workers=workers if workers is not None else min(os.cpu_count() or 1, MOST_WORKERS),
            progress=lambda done, total: bar(done, total, "reading images"),
        )
    if as_json:
        print_json(_content(dataset, report, fingerprint))
    else:
        _print_report(dataset, report)
        print(f"fingerprint {fingerprint}" if fingerprint else f"no fingerprint: {printable(why_none)}")
    if plot is not None:
        _draw(dataset, report, plot)
        if not as_json:
            print(f"drawn: {plot}")
    if not report.sound:
        raise typer.Exit(1)


@datasets.command("describe")
def datasets_describe(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of your own images and masks.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there. [default: PATH/dataset.toml]")] = None,
) -> None:
    """Write a dataset.toml that says what a folder of your own holds: the best reading, with a comment on each guess.

    What can be read in two ways is written as comments; the folder is read once one of them is chosen.
    """
    from evaluators.datasets.named import describe

    with progress_bar() as bar:
        target, ways = describe(path, out, lambda done, total: bar(done, total, "reading masks"))
    print(f"written: {printable(str(target))}")
    if len(ways) > 1:
        print(f"{len(ways)} readings fit; choose one in it:")
        for number, says in enumerate(ways, start=1):
            print(f"    {number}: {printable(says)}")


@datasets.command("layouts")
def datasets_layouts(
    example: Annotated[bool, typer.Option("--example", help="Print a dataset.toml with every setting.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is recognised, and by which files and folders below PATH."""
    from evaluators.datasets.description import EXAMPLE
    from evaluators.datasets.named import LAYOUTS, SCENES
    from evaluators.datasets.places import LAYOUTS as OWN
    from evaluators.datasets.scene_drawing import COMMON_CLASSES, LEAST_CLASSES, MOST_CLASSES

    if example:
        print(EXAMPLE, end="")
        return
    rows: list[dict[str, Any]] = [
        {
            "layout": name,
            "data_set": layout.title,
            "classes": layout.classes,
            "looks_for": list(layout.looks_for),
        }
        for name, layout in LAYOUTS.items()
    ]
    drawn = "procedural scenes, drawn when first used"
    rows.append({"layout": SCENES, "data_set": drawn, "classes": COMMON_CLASSES, "looks_for": []})
    chosen, counts = "the same pictures with classes folded or told apart", f"{LEAST_CLASSES} to {MOST_CLASSES}"
    rows.append({"layout": f"{SCENES}:CLASSES", "data_set": chosen, "classes": counts, "looks_for": []})
    if as_json:
        print_json(rows)
        return
    print("layouts of data sets; give PATH, or LAYOUT:PATH where two fit")
    for row in rows:
        print(f"\n{row['layout']}: {row['data_set']}; classes: {row['classes'] or 'yours'}")
        for place in row["looks_for"]:
            print(f"    {place}")
    print("\nyour own images and masks (layout folder) may lie so, or as a dataset.toml says, which --example shows:")
    for title, images, masks in OWN:
        print(f"    {images}  {masks}  ({title})")


def printable(text: str) -> str:
    """File names may hold bytes that no terminal shows."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _fingerprint(dataset: "Checkable", progress: Any) -> tuple[str | None, str]:
    """Or why there is none: a file that cannot be read is a problem found, not a mistake in the command."""
    from evaluators.datasets.files import DataError
    from evaluators.datasets.scenes import Scenes

    if isinstance(dataset, Scenes):
        return dataset.fingerprint, ""
    try:
        return dataset.fingerprinted(progress), ""
    except DataError as error:
        return None, str(error)


def _content(dataset: "Checkable", report: "DatasetReport", fingerprint: str | None) -> dict[str, Any]:
    return {
        "layout": dataset.name,
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "splits": {
            split: asdict(part)
            | {
                "ignored_pct": part.ignored_pct,
                "never_seen": [dataset.class_names[label] for label in part.never_seen],
            }
            for split, part in report.splits.items()
        },
        "problems": [problem._asdict() for problem in report.problems],
        "sound": report.sound,
        "fingerprint": fingerprint,
    }


def _print_report(dataset: "Checkable", report: "DatasetReport") -> None:
    print_rows(
        [
            {
                "split": split,
                "images": f"{part.images:,}",
                "looked at": f"{part.looked_at:,}",
                "height x width, px": _sizes(part),
                "ignored %": None if part.ignored_pct is None else f"{part.ignored_pct:.2f}",
                "classes never seen": printable(_never_seen(dataset, part)),
            }
            for split, part in report.splits.items()
        ],
        f"{dataset.name}, {dataset.num_classes} classes",
    )
    console = console_of()
    for problem in report.problems[:MOST_PROBLEMS]:
        console.print(f"{problem.kind}: {printable(problem.path)}: {printable(problem.says)}", highlight=False)
    if (more := len(report.problems) - MOST_PROBLEMS) > 0:
        console.print(f"and {more} more; all are listed with --json", highlight=False)
    sampled = any(part.looked_at < part.images for part in report.splits.values())
    found = f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}" if report.problems else "sound"
    print(found + (", as far as the sample goes" if sampled else ""))


def _sizes(part: "SplitReport") -> str | None:
    if part.smallest is None or part.largest is None:
        return None
    smallest, largest = (f"{height}x{width}" for height, width in (part.smallest, part.largest))
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _never_seen(dataset: "Checkable", part: "SplitReport") -> str:
    names = [dataset.class_names[label] for label in part.never_seen]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + more or "none"


def _draw(dataset: "Checkable", report: "DatasetReport", path: Path) -> None:
    from experiments.reports.figures import draw_classes

    counts: dict[str, dict[str, int]] = {
        split: dict(zip(dataset.class_names, part.class_counts, strict=True)) for split, part in report.splits.items()
    }
    has_maps = all(part.ignored_pixels is not None for part in report.splits.values())
    title = f"{dataset.name}: {dataset.num_classes} classes"
    draw_classes(title, counts, "labelled pixels" if has_maps else "images", path)
