"""Which weights does an export get? A trial's own, a file's, or, only when asked for, random ones."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from evaluators.cost import require_runnable
from evaluators.datasets import Colour
from evaluators.datasets.acceptance import require_names
from evaluators.datasets.named import dataset_named
from experiments.export.card import Provenance
from experiments.front.lookup import Chosen
from experiments.search.assembly import evaluator_of
from experiments.store.artefacts import file_sha256
from experiments.store.store import Store
from experiments.training.class_names import require_named_alike
from experiments.trust.standing import standing_in
from latency_lut.table import LatencyTable
from topformer.blocks import decompose
from topformer.config import Task
from topformer.errors import UserError
from topformer.model import TopFormer
from topformer.weights import load_model, saved_architecture, saved_classes


def network_of(
    found: Chosen,
    task: Task,
    *,
    weights: Path | None,
    random_weights: bool,
    retrain: bool,
    storage: str,
    table: LatencyTable | None,
    accept: Collection[str] = (),
    command: str = "",
) -> tuple[TopFormer, Provenance]:
    """The network to export, in eval mode, and what its card may claim.

    Raises `UserError` where nothing trained is at hand and random weights were not asked for, where it is too large to
    be checked, and where weights name other classes than the data set of the study has now, unless "class-order" is
    accepted.
    """
    require_names(accept)
    if sum((weights is not None, random_weights, retrain)) > 1:
        raise UserError("--weights, --random-weights and --retrain exclude one another: give one.")
    require_runnable(found.arch, task)
    trial = found.trial
    own = weights is None and not random_weights
    if trial is not None and own and task.num_classes != trial.candidate.task.num_classes:
        raise UserError(
            f"trial {trial.number} was trained for {trial.candidate.task.num_classes} classes, not {task.num_classes}; "
            "leave --classes out."
        )
    table = table or (found.study.table if found.study else None)
    priced = {
        "command": command,
        "latency": table.estimate(decompose(found.arch, task)) if table else None,
        "table": table.header.name if table else None,
        "table_checksum": table.checksum if table else None,
    }
    if random_weights:
        model = settle_random_weights(_network(found, task, None))
        return model, Provenance(weights="random", classes=_classes(None, found, task), **priced)  # type: ignore[arg-type]
    if weights is not None:
        _require_classes_of_study(found, weights, accept)
        model = _network(found, task, weights)
        named = _classes(weights, found, task)
        return model, Provenance(weights=str(weights), weights_sha256=file_sha256(weights), classes=named, **priced)  # type: ignore[arg-type]
    path, checksum = _trial_weights(found, retrain=retrain, storage=storage)
    model = _network(found, task, path)
    assert found.study is not None
    assert found.trial is not None
    return model, Provenance(
        weights=f"study {found.study.name} trial {found.trial.number}",
        weights_sha256=checksum,
        classes=_classes(path, found, task),
        study=found.study,
        trial=found.trial,
        ranking=standing_in(storage, found.study.evaluator, found.study.config.search_space()),
        **priced,  # type: ignore[arg-type]
    )


def _classes(weights: Path | None, found: Chosen, task: Task) -> tuple[tuple[str, Colour], ...]:
    """Name and colour of each: as the weights say, or the study's data set; empty where neither does."""
    if weights is not None and saved_architecture(weights) is not None and (own := saved_classes(weights)):
        return own
    if found.study is None:
        return ()
    try:
        dataset = dataset_named(found.study.config.evaluator.dataset)
    except UserError:
        return ()
    if dataset.num_classes != task.num_classes:
        return ()
    return tuple(zip(dataset.class_names, dataset.palette, strict=True))


def _require_classes_of_study(found: Chosen, weights: Path, accept: Collection[str]) -> None:
    """Where the study's images are not here, nothing can be compared."""
    if found.study is None:
        return
    data = found.study.config.evaluator.dataset
    try:
        dataset = dataset_named(data)
    except UserError:
        return
    require_named_alike(weights, data, dataset.class_names, accept)


def _network(found: Chosen, task: Task, weights: Path | None) -> TopFormer:
    return load_model(found.arch, num_classes=task.num_classes, weights=weights, output=task.output)


def _trial_weights(found: Chosen, *, retrain: bool, storage: str) -> tuple[Path, str]:
    """The kept weights of a trial and their checksum, verified."""
    study, trial = found.study, found.trial
    if study is None or trial is None:
        raise UserError(
            f"{found.label} has no trained weights: name a file with --weights, or export an untrained network "
            "with --random-weights."
        )
    if trial.state != "complete" or trial.record is None:
        raise UserError(f"trial {trial.number} of study {study.name!r} is {trial.state}, so it has no weights.")
    if trial.record.accuracy is not None and trial.record.accuracy.miou_margin_pct is not None:
        raise UserError(
            f"the mIoU of trial {trial.number} of study {study.name!r} is predicted, and no weights have it; train it "
            f"with: topformer-nas train '{found.text}' --out FOLDER, and export with --weights, or let [[confirm]] "
            "train the best and name that one with --fidelity."
        )
    if retrain:
        return _trained_again(found, storage)
    with Store.open(storage, read_only=True) as store:
        path = store.fetched_weights(trial)
    if path is None:
        raise UserError(
            f"the weights of trial {trial.number} of study {study.name!r} are not here: a store keeps those that it "
            "trained for the front, the anchors and confirmations, an archive has none; train it again with --retrain."
            if trial.weights is None
            else f"the weights of trial {trial.number} of study {study.name!r} are no longer at {trial.weights}; bring "
            "them back, or train it again with --retrain."
        )
    assert trial.weights_sha256 is not None
    if file_sha256(path) != trial.weights_sha256:
        raise UserError(f"{path} has changed since it was trained; train it again with --retrain.")
    return path, trial.weights_sha256


def _trained_again(found: Chosen, storage: str) -> tuple[Path, str]:
    """Repeat a trial's training, which must find its recorded mIoU again, and keep the weights."""
    study, trial = found.study, found.trial
    assert study is not None
    assert trial is not None
    assert trial.record is not None
    evaluator = evaluator_of(study)
    if evaluator.fingerprint != trial.record.evaluator:
        raise UserError(
            f"trial {trial.number} was trained by evaluator {trial.record.evaluator}; this version has "
            f"{evaluator.fingerprint} and cannot repeat it."
        )
    with Store.open(storage) as store:
        target = store.weights_path(trial.candidate.key, evaluator.fingerprint, trial.record.replicate)
        first = store.find_record(trial.candidate.key, evaluator.fingerprint, trial.record.replicate)
        miou_pct = (first.value if first else None) or 0.0  # of a confirmation, the trial has the mean of several
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            fresh = Path(folder) / target.name
            metrics = evaluator.evaluate(trial.candidate, replicate=trial.record.replicate, weights_out=fresh)
            if abs(metrics.miou_pct - miou_pct) > 0.5:
                raise UserError(
                    f"training trial {trial.number} again gave mIoU {metrics.miou_pct:.2f} %, recorded is "
                    f"{miou_pct:.2f} %: another machine or library version; nothing was exported."
                )
            fresh.replace(target)
        store.restore_weights(trial.candidate.key, evaluator.fingerprint, trial.record.replicate, target)
    return target, file_sha256(target)


def settle_random_weights(model: TopFormer, *, seed: int = 0) -> TopFormer:
    """Weights scaled by fan-in, so that an untrained network's activations have a sane scale without batch statistics.

    As initialised for training, it would amplify rounding errors a thousandfold, and no parity could be shown.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()
