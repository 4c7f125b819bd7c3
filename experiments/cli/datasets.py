"""The `topformer-nas datasets` commands: parse, make one call, print."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.terminal import AsJson, console_of, end_if_json, print_json, print_rows, progress_bar

if TYPE_CHECKING:
    from experiments.views.dataset import DatasetView

MOST_PROBLEMS = 20
"""Listed for people; --json lists all."""

datasets = typer.Typer(help="Check labelled images, and list the layouts that are read.", no_args_is_help=True)


@datasets.command("check")
def datasets_check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder of a data set, LAYOUT:FOLDER, scenes or scenes:CLASSES.")
    ],
    sample: Annotated[
        int | None, typer.Option(metavar="N", help="Look at N images of each split and read no others. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that read. [default: as many as pay]")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the classes' frequencies to a .png, .svg or .pdf.")] = None,
    preview: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw twelve images with their labels laid over to a .png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every image and label map, and say what they are before they are trained on.

    Counts, sizes, how each class was read and its share, what is ignored, warnings, a fingerprint, and every file that
    is not sound. Exit code 0: sound, whatever the warnings; 1: problems were found.
    """
    from evaluators.datasets.named import any_dataset_named
    from experiments.views.dataset import checked_dataset

    for figure in (plot, preview):
        if figure is not None:
            from experiments.reports.figures import require_figure

            require_figure(figure)
    with progress_bar() as bar:
        view = checked_dataset(any_dataset_named(path), sample=sample, seed=seed, workers=workers, progress=bar)
    if as_json:
        print_json(view.as_dict())
    else:
        _print_view(view)
    for drawn in _drawn(view, plot, preview):
        if not as_json:
            print(f"drawn: {drawn}")
    if not view.report.sound:
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
    if any(ways):
        print(f"{len(ways)} reading{'s fit' if len(ways) > 1 else ' fits'}; choose one in it:")
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
    end_if_json(as_json, rows)
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


def _print_view(view: "DatasetView") -> None:
    printed = [{name: _cell(value) for name, value in row.items()} for row in view.split_rows()]
    print_rows(printed, view.title)
    if view.has_maps:
        rows = [{name: _cell(value) for name, value in row.items()} for row in view.class_rows()]
        print_rows(rows, "classes, their shares of what is labelled, and the images that have them")
    console = console_of()
    if view.ignored:
        console.print(view.ignored, highlight=False)
    for remark in view.remarks:
        console.print(f"note: {printable(remark)}", highlight=False)
    for one in view.warnings:
        console.print(f"warning ({one.name}): {printable(one.says)}", highlight=False)
    for problem in view.report.problems[:MOST_PROBLEMS]:
        console.print(f"{problem.kind}: {printable(problem.path)}: {printable(problem.says)}", highlight=False)
    if (more := len(view.report.problems) - MOST_PROBLEMS) > 0:
        console.print(f"and {more} more; all are listed with --json", highlight=False)
    print(view.verdict)
    print(
        f"fingerprint {view.fingerprint}" if view.fingerprint else f"no fingerprint: {printable(view.no_fingerprint)}"
    )


def _cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _drawn(view: "DatasetView", plot: Path | None, preview: Path | None) -> Iterator[Path]:
    """What is asked for; each file when it is there."""
    if plot is not None:
        from experiments.reports.figures import draw_classes

        draw_classes(view.title, view.class_counts(), "labelled pixels" if view.has_maps else "images", plot)
        yield plot
    if preview is not None:
        from experiments.reports.preview import draw_preview

        draw_preview(view, preview)
        yield preview
