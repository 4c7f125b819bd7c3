"""Do claims about accuracy hold on photographs? The evaluations of each step, resumable, into a store.

python experiments/benchmarks/photographs.py split CAMVID OUT          the folder that the steps take as DATA
python experiments/benchmarks/photographs.py run STEP DATA --storage URL [--until 11:30] [--workers N]
python experiments/benchmarks/photographs.py run v DATA --storage URL --study NAME [--fidelity LABEL]

CAMVID is the SegNet tutorial's CamVid in the `folder` layout, with fit.txt, pick.txt and judge.txt: the 367 training
photographs in blocks of 12 by name, some of which only judge. OUT refers to its files and copies none. What is known
is not evaluated again; `topformer-nas trust records export` writes the ledger. Step v trains T, S, B and what was found
on drawn scenes, and, of a study of photographs in the same store, the best no slower than each of T, S and B; its first
seed keeps the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from evaluators.datasets.named import dataset_named
from evaluators.named import scorers_named
from evaluators.proxy import REFERENCE
from experiments.benchmarks.found_front import chosen
from experiments.front.lookup import at_rung
from experiments.paper.accuracy import on_classes
from experiments.store.store import Store
from experiments.trust.standing import shipped_reports
from experiments.workers.pool import worker_pool
from experiments.workers.recorded import Want, recorded
from topformer.config import BASE, SMALL, TINY, Candidate, Task, TopFormerConfig

SPLITS = {"train": "fit", "val": "pick", "test": "judge"}
FOUND = Path(__file__).parents[1] / "results/search/found_front.json"
CHEAP = "proxy-short,parameters,macs,naswot,synflow"
ORDERINGS = (
    TINY,
    SMALL,
    BASE,
    TINY.replace(extractor="none"),
    TINY.replace(extractor="ffn"),
    TINY.replace(injection="attention"),
    TINY.replace(injection="semantics"),
    TINY.replace(injected_strides=(4, 8, 16, 32)),
    TINY.replace(injected_strides=(16, 32)),
    TINY.replace(token_stride=32),
    TINY.replace(token_stride=128),
)
"""What the paper compares, on T where it does not say."""


def split(camvid: Path, out: Path) -> None:
    """A folder with links to the training photographs and the lists of who learns, picks and judges."""
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((camvid / folder / "train").iterdir()):
            link = out / folder / path.name
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    (out / "classes.txt").write_text((camvid / "classes.txt").read_text())
    for ours, theirs in SPLITS.items():
        (out / f"{ours}.txt").write_text((camvid / f"{theirs}.txt").read_text())
    print(json.dumps({ours: len((out / f"{ours}.txt").read_text().split()) for ours in SPLITS}))


def wants(step: str, data: str, found: Sequence[Candidate] = ()) -> Iterator[Want]:
    """Evaluations of a step, the most telling ones first; `found` is what a study of photographs brought."""
    dataset = dataset_named(data)
    (reference,) = scorers_named("reference", REFERENCE, dataset)
    cheap = scorers_named(CHEAP, REFERENCE, dataset)

    def candidate(arch: TopFormerConfig) -> Candidate:
        return Candidate(arch=arch, task=Task(num_classes=dataset.num_classes))

    match step:
        case "iii":  # the 40 architectures of the shipped report, at one seed
            for one in (candidate(arch) for arch in shipped_architectures()):
                yield Want(scorer=reference, candidate=one)
                yield from (Want(scorer=scorer, candidate=one) for scorer in cheap)
        case "iv":  # orderings of the paper, three seeds
            for seed in range(3):
                for arch in ORDERINGS:
                    yield Want(scorer=reference, candidate=candidate(arch), replicate=seed)
        case "v":  # T, S, B and what searches found on `scenes` and on photographs, three seeds
            for seed in range(3):
                anchors = (Candidate(arch=arch, task=Task()) for arch in (TINY, SMALL, BASE))
                for network in (*anchors, *found_on_scenes().values(), *found):
                    one = on_classes(network, dataset.num_classes)
                    yield Want(scorer=reference, candidate=one, replicate=seed, keeps_weights=seed == 0)
        case _:
            raise SystemExit(f"no step {step!r}; there are iii, iv and v.")


def shipped_architectures() -> tuple[TopFormerConfig, ...]:
    """Those that the shipped report on `scenes` ranks."""
    (report,) = (one for one in shipped_reports() if one.name == "pyramid-scenes")
    return tuple(TopFormerConfig.from_dict(one.architecture) for one in report.ranked)


def found_on_scenes() -> dict[str, Candidate]:
    """For each of T, S and B, what is better at its latency, and what is as good and faster; by both words.

    Each on the image size that it was found with, which its latency is of.
    """
    anchors = json.loads(FOUND.read_text())["anchors"]
    entries = {
        f"{kind} than {anchor}": anchors[anchor].get(kind)
        for anchor in ("tiny", "small", "base")
        for kind in ("better", "faster")
    }
    return {
        name: Candidate(
            arch=TopFormerConfig.from_dict(entry["architecture"]), task=Task(image_size=tuple(entry["image_size"]))
        )
        for name, entry in entries.items()
        if entry
    }


def found_on_photographs(storage: str, study: str, fidelity: str | None) -> dict[str, Candidate]:
    """For each of T, S and B, the best no slower, as the study's last confirmation has it, or `fidelity`."""
    with Store.open(storage, read_only=True) as store:
        rungs = store.study(study).rungs
        known, members = at_rung(store, study, fidelity or (rungs[-1].label if rungs else None))
    groups = chosen(members, fidelity=known.fidelity)
    found = {f"better than {name}": group["better"].candidate for name, group in groups.items() if "better" in group}
    if not found:
        raise SystemExit(f"study {study!r} has nothing beside T, S and B by {known.fidelity}; name another --fidelity.")
    return found


def run(every: Sequence[Want], storage: str, *, workers: int, until: datetime | None) -> None:
    """One evaluation after the other, each recorded at once; begins none after `until`."""
    with Store.open(storage, create=True) as store, worker_pool(workers) as pool:
        for number, want in enumerate(every, start=1):
            if store.find_record(*want.identity) is not None:
                continue
            if until is not None and datetime.now() > until:
                print(
                    f"{until:%H:%M} is past: the first {number - 1} of {len(every)} evaluations are known", flush=True
                )
                return
            (record,) = recorded([want], store, pool)
            said = f"{datetime.now():%H:%M:%S} {number} of {len(every)}: {want.candidate.arch.key} by {record.fidelity}"
            print(f"{said}, replicate {want.replicate}: {record.value}, judged {record.judge_miou_pct}", flush=True)
    print(f"all {len(every)} evaluations are known", flush=True)


def time_of_today(text: str | None) -> datetime | None:
    """From hours and minutes; None for nothing."""
    if text is None:
        return None
    return datetime.combine(datetime.now().date(), datetime.strptime(text, "%H:%M").time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split")
    splitting.add_argument("camvid", type=Path)
    splitting.add_argument("out", type=Path)
    running = commands.add_parser("run")
    running.add_argument("step")
    running.add_argument("data")
    running.add_argument("--storage", required=True)
    running.add_argument("--workers", type=int, default=1)
    running.add_argument("--until", help="a time of today; no evaluation begins after it")
    running.add_argument("--study", help="a study of photographs in the store, whose best step v trains, too")
    running.add_argument("--fidelity", help="by which these are the best; by default the last confirmation")
    asked = parser.parse_args()
    if asked.command == "split":
        split(asked.camvid, asked.out)
        return
    found = found_on_photographs(asked.storage, asked.study, asked.fidelity).values() if asked.study else ()
    run(
        list(wants(asked.step, asked.data, tuple(found))),
        asked.storage,
        workers=asked.workers,
        until=time_of_today(asked.until),
    )


if __name__ == "__main__":
    main()
