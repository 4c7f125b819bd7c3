"""Which evaluators, rungs and images does a study's configuration name?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from evaluators.base import Evaluator, Scorer
from evaluators.combined import CombinedEvaluator
from evaluators.datasets import SegmentationDataset
from evaluators.datasets.acceptance import examined, require_names
from evaluators.datasets.files import LabelledFiles
from evaluators.datasets.named import dataset_named
from evaluators.named import evaluator_named, scorer_named
from evaluators.proxy import REFERENCE
from evaluators.supernet import SupernetEvaluator
from experiments.search.schedule import Confirmation, Schedule, Screen, rung_label
from experiments.store.records import Study, like
from experiments.study_config import ConfirmSection, StudyConfig
from experiments.trust.standing import Standing
from topformer.errors import UserError, located


def build_evaluator(config: StudyConfig) -> Evaluator:
    """The evaluator that this study's recipe names; refuses a task whose classes are not the data set's."""
    dataset = dataset_of(config)
    with _key(config, "evaluator.recipe"):
        return evaluator_named(config.evaluator.recipe, dataset)


def evaluator_of(study: Study) -> Evaluator:
    """What gives the mIoU of `study.fidelity`: the study's own evaluator, or that of a confirmation."""
    config, number = study.config, len(study.rungs) - len(study.further) - 1
    if number < 0:
        return build_evaluator(config)
    with _key(config, f"confirm[{number}].recipe"):
        return evaluator_named(config.confirm[number].recipe, dataset_of(config))


def build_schedule(config: StudyConfig, evaluator: Evaluator, trusted: Callable[[Scorer], Standing]) -> Schedule:
    """The rungs around the evaluator; screens whose order is not `trusted` are left out, with a notice."""
    if not config.screen and not config.confirm:
        return Schedule()
    if config.screen and config.search.asynchronous:
        raise UserError(
            f"study {config.name!r}: [[screen]] scores batches before they are trials, so search.asynchronous cannot "
            "be true with it; leave one of them out."
        )
    dataset = dataset_of(config)
    screens, notices = _screens(config, dataset, evaluator, trusted)
    confirmations = _confirmations(config, dataset, evaluator, trusted)
    return Schedule(screens=screens, confirmations=confirmations, notices=notices)


def _screens(
    config: StudyConfig,
    dataset: SegmentationDataset,
    evaluator: Evaluator,
    trusted: Callable[[Scorer], Standing],
) -> tuple[tuple[Screen, ...], tuple[str, ...]]:
    """The screens that are used, and a sentence on each that is not."""
    screens, notices = [], []
    for number, section in enumerate(config.screen):
        with _key(config, f"screen[{number}].recipe"):
            scorer = scorer_named(section.recipe, REFERENCE, dataset)
            if scorer.fingerprint == evaluator.fingerprint:
                raise UserError(f"{section.recipe!r} is the study's own evaluator.")
        if (standing := trusted(scorer)).trusted:
            screens.append(Screen(scorer=scorer, share=section.share))
        else:
            notices.append(f"screen {scorer.fidelity} is not used: {standing.sentence}.")
    return tuple(screens), tuple(notices)


def _confirmations(
    config: StudyConfig,
    dataset: SegmentationDataset,
    evaluator: Evaluator,
    trusted: Callable[[Scorer], Standing],
) -> tuple[Confirmation, ...]:
    confirmations = list[Confirmation]()
    before: Evaluator = evaluator
    for number, section in enumerate(config.confirm):
        where = f"study {config.name!r}, confirm[{number}]"
        if section.keep is section.front_probability is None:
            raise UserError(
                f"{where}: which trials? Set keep = 6, the best by fronts, or front_probability = 0.05, all that are "
                "that likely to be on the front."
            )
        _require_race(section, where)
        with _key(config, f"confirm[{number}].recipe"):
            found = evaluator_named(section.recipe, dataset)
        if isinstance(found, SupernetEvaluator) and section.replicates > 1:
            raise UserError(
                f"{where}.replicates: {found.fidelity} trains nothing, so that {section.replicates} of its evaluations "
                f'are all alike; set replicates = 1, or recipe = "tuned:{found.weights}".'
            )
        if isinstance(found, CombinedEvaluator) and section.replicates > 1:
            raise UserError(
                f"{where}.replicates: {found.fidelity} predicts, and {section.replicates} predictions err alike; set "
                "replicates = 1."
            )
        noise_pct = None
        if section.front_probability is not None and (noise_pct := trusted(before).noise_pct) is None:
            raise UserError(
                f"{where}.front_probability: no trust report says how far trainings by {before.fidelity} differ, so "
                "how likely trials are on the front is not known; set keep = 6."
            )
        own_noise_pct = trusted(found).noise_pct if section.racing else None
        confirmations.append(
            like(Confirmation, section, evaluator=found, noise_pct=noise_pct, own_noise_pct=own_noise_pct)
        )
        before = found
    labels = [rung_label(evaluator.fidelity, 1), *(rung.label for rung in confirmations)]
    if twice := next((label for label in labels[1:] if labels.count(label) > 1), None):
        raise UserError(
            f"study {config.name!r}: [[confirm]] {twice!r} is there twice, or is what trials are trained by; give it "
            "other replicates, or another recipe."
        )
    return tuple(confirmations)


def _require_race(section: ConfirmSection, where: str) -> None:
    if section.trainings is not None and not section.racing:
        raise UserError(f"{where}.trainings is the budget of a race; set racing = true, or leave it out.")
    if section.racing and section.replicates == 1:
        raise UserError(
            f"{where}.racing: replicates is the most trainings that one architecture gets, and one alone leaves "
            "nothing to decide; set replicates = 5."
        )


def _key(config: StudyConfig, key: str) -> AbstractContextManager[None]:
    return located(f"study {config.name!r}, {key}")


def examined_data(
    config: StudyConfig, accepted: Collection[str], progress: Callable[[int, int], None] | None = None
) -> tuple[str, ...]:
    """What is to be said of a study's images; raises `UserError` for a warning that stops and is not accepted."""
    require_names(accepted)
    dataset = dataset_of(config)
    with _key(config, "evaluator.dataset"):
        return examined(dataset, accepted, progress=progress)


def dataset_of(config: StudyConfig) -> SegmentationDataset:
    """The images that candidates are trained on; refuses those of other classes than the task's."""
    with _key(config, "evaluator.dataset"):
        dataset = dataset_named(config.evaluator.dataset)
        if isinstance(dataset, LabelledFiles):
            dataset.require_complete()
    if dataset.num_classes != config.task.num_classes:
        raise UserError(
            f"study {config.name!r}: task.num_classes is {config.task.num_classes}, but {config.evaluator.dataset} has "
            f"{dataset.num_classes} classes; set num_classes = {dataset.num_classes}."
        )
    return dataset
