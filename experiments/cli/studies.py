"""The commands about studies that are there. Parse, make one call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import DEFAULT_URL
from experiments.cli.terminal import AsJson, Storage, console_of, end_if_json, print_rows
from topformer.errors import UserError

study_commands = typer.Typer(help="List, compare, pass on and delete the studies of a store.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="STUDY")]
ArchiveFile = Annotated[Path, typer.Argument(metavar="FILE", help="What `study export` wrote.")]


@study_commands.command("list")
def study_list(storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """The studies of a store."""
    from experiments.store.store import Store
    from experiments.views.studies import study_rows

    with Store.open(storage, read_only=True) as store:
        rows = [row.as_dict() for row in study_rows(store)]
    end_if_json(as_json, rows)
    for row in rows:
        row["done"] = f"{row['complete']} of {row['wanted']}"
        row["finished"] = str(row["finished"] or "not yet")[:10]
    print_rows(rows, "studies", columns=("study", "done", "failed", "fidelity", "ranking", "finished"))


@study_commands.command("show")
def study_show(study: Name, storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """What a study asked for, what was done and saved, what it cost, and what came of it."""
    from experiments.store.store import Store
    from experiments.views.studies import study_summary

    with Store.open(storage, read_only=True) as store:
        summary = study_summary(store, study)
    content = summary.as_dict()
    end_if_json(as_json, content)
    console = console_of()
    for name, value in content.items():
        if name in ("hypervolume_by_batch", "failures", "ranking_trust"):
            continue
        console.print(f"{name:31s} {_shown(value)}", highlight=False)
    for number, area in enumerate(content["hypervolume_by_batch"]):
        console.print(f"hypervolume after batch {number:<7d} {area:.1f} ms %", highlight=False)
    for failure in content["failures"]:
        console.print(f"trial {failure['trial']} failed: {failure['reason']}", highlight=False)
    console.print(summary.ranking.notice, highlight=False)


@study_commands.command("compare")
def study_compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Two or more, of one table and evaluator.")],
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Studies side by side: hypervolume from one reference, and whose points are on the front of all together."""
    from experiments.store.store import Store
    from experiments.views.studies import comparison

    if len(set(studies)) < max(len(studies), 2):
        raise UserError("name at least two studies, each once.")
    with Store.open(storage, read_only=True) as store:
        rows = [row.as_dict() for row in comparison(store, studies)]
    end_if_json(as_json, rows)
    reference_ms = rows[0]["reference_ms"]
    columns = ("study", "sampler", "seed", "complete", "hypervolume", "on_front", "on_common_front")
    shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
    print_rows(shown, f"studies; hypervolumes below {reference_ms:.2f} ms", columns=columns)


@study_commands.command("export")
def study_export(
    study: Name,
    out: Annotated[Path, typer.Option(help="The archive to write, a .zip.")],
    key: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign it with this key of ssh, in a file beside it.")
    ] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Write a study to one file: configuration, table, trials, records, front, versions. Weights stay in the store."""
    from experiments.export.signing import sign
    from experiments.export.study_file import export_study
    from experiments.store.store import Store

    with Store.open(storage, read_only=True) as store:
        path = export_study(store, study, out)
    signature = None if key is None else sign(path, key)
    signed = {} if signature is None else {"signature": str(signature)}
    end_if_json(as_json, {"study": study, "archive": str(path), "bytes": path.stat().st_size} | signed)
    print(f"{path}: study {study}, {path.stat().st_size:,} bytes; to check it: topformer-nas study verify {path}")
    if signature is not None:
        print(f"{signature}: the signature; give it away with the archive")


@study_commands.command("verify")
def study_verify(
    archive: ArchiveFile,
    signers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may have signed it: a name and a public key of ssh a line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an archive: checksums, every latency from its table, the front scored again from its records, a signature.

    What no check can show is listed, too.
    """
    from experiments.export.signing import signature_of
    from experiments.export.study_file import read_archive, unproven

    found, signature = read_archive(archive), signature_of(archive, signers)
    content: dict[str, Any] = {
        "study": found.study.name,
        "trials": len(found.trials),
        "front": found.front.trials,
        "hypervolume": found.front.hypervolume,
        "reference_ms": found.front.reference_ms,
        "table": found.table.name,
        "evaluator": found.study.evaluator,
        "fidelity": found.study.fidelity,
        "made_by": dict(found.made_by),
        "machine": dict(found.machine),
        "signed_by": signature and signature.shown,
        "unproven": list(unproven(found, signature and signature.signer)),
    }
    end_if_json(as_json, content)
    console = console_of()
    doubts = content.pop("unproven")
    for name, value in content.items():
        console.print(f"{name:13s} {_shown(value)}", highlight=False)
    console.print(
        f"{archive}: checksums, space, anchors, latencies, records and front agree with each other. Not shown by that:",
        highlight=False,
    )
    for doubt in doubts:
        console.print(f"- {doubt}.", highlight=False)


@study_commands.command("import")
def study_import(
    archive: ArchiveFile,
    name: Annotated[str | None, typer.Option("--as", help="Another name for it here.")] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Put an archive's study into a store, after the checks of `verify`; it can be browsed, exported and extended."""
    from experiments.export.study_file import import_study, read_archive
    from experiments.store.store import Store

    found = read_archive(archive)
    with Store.open(storage, create=True) as store:
        known = import_study(store, found, name=name)
    end_if_json(as_json, {"study": known, "trials": len(found.trials), "storage": storage})
    print(f"study {known} with {len(found.trials)} trials is in {storage}.")


@study_commands.command("delete")
def study_delete(study: Name, storage: Storage = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Forget a study; its evaluations stay in the store, so nothing would be trained twice."""
    from experiments.store.store import Store

    with Store.open(storage) as store:
        trials = store.counts(study).trials
        store.delete_study(study)
    end_if_json(as_json, {"study": study, "trials": trials})
    print(f"study {study} with {trials} trials is forgotten; its evaluations are kept.")


def _shown(value: object) -> str:
    """As a person reads it."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "" if value is None else str(value)
