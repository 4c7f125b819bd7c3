"""`docs/formats.md` says what the code does, and the formats that `test_made_before.py` has no example of have one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evaluators import combined
from evaluators.combined import Predictor
from evaluators.datasets.description import read_description
from experiments.export import study_file
from experiments.front import lookup
from experiments.search.study import StudyConfig
from experiments.store import ledger, schema
from experiments.store.ledger import read_records, take_in, write_records
from experiments.store.store import Store
from experiments.training.recipe_files import recipe_named
from experiments.trust import standing
from latency_lut import table
from search_space import PRESETS, SearchSpace, preset
from topformer import keys, weights
from topformer.config import ANCHORS, Candidate, Task, content_key

ROOT = Path(__file__).parents[2]
BEFORE = Path(__file__).parent / "made_before"
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
VERSIONS = {
    "Latency-table key": str(keys.KEY_VERSION),
    "Latency table": str(table.FORMAT),
    "Store": schema.HEAD,
    "Study archive": str(study_file.FORMAT),
    "Export card": str(lookup.CARD_FORMAT),
    "Trust report": str(standing.FORMAT),
    "Combined evaluator": str(combined.FORMAT),
    "Weights": weights.FORMAT.removeprefix("topformer-nas "),
    "Records": str(ledger.VERSION),
    "Study": "none",
    "Recipe": "none",
    "Data-set description": "none",
    "Architecture and task": "none",
    "Search space": "none",
}


def sections() -> dict[str, str]:
    """Texts by format."""
    return dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])


def test_the_page_has_every_format_and_its_version() -> None:
    said = dict(re.findall(r"^\| \[([^\]]+)\]\([^)]+\) \| (\w+) \|", PAGE, re.MULTILINE))
    assert said == VERSIONS
    assert sections().keys() == VERSIONS.keys()


@pytest.mark.parametrize("name", VERSIONS)
def test_a_section_names_what_there_is(name: str) -> None:
    section = sections()[name]
    for entry in ("Version", "Writer", "Reader", "Pinned by"):
        assert f"* {entry}: " in section
    for path, what in re.findall(r"^\* [A-Z][a-z ]+: `([^`]+)` `([^`]+)`$", section, re.MULTILINE):
        code = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:(?:def|class) {what}\b|{what} = )", code, re.MULTILINE), (path, what)


@pytest.mark.parametrize("name", VERSIONS)
def test_a_json_example_is_json(name: str) -> None:
    for example in re.findall(r"```json\n(.*?)```", sections()[name], re.DOTALL):
        json.loads(example)


def test_a_combined_evaluator_predicts_what_it_predicted() -> None:
    """The file was fitted to eight architectures of `pyramid-scenes` by proxy-short."""
    predictor = Predictor.load(BEFORE / "combined.json")
    told = predictor.predict(Candidate(arch=ANCHORS["tiny"], task=Task(num_classes=59)), [40.0])
    assert predictor.as_json() == (BEFORE / "combined.json").read_text()
    assert (told.value, told.low, told.high) == pytest.approx((53.207, 35.792, 70.622), abs=0.01)


def test_a_description_says_what_it_said() -> None:
    found = read_description(BEFORE / "dataset.toml")
    table = ", ".join(["0", "1", *["-1"] * 252, "255", "1"])
    assert (found.names, found.palette) == (("background", "lesion"), ((0, 0, 0), (200, 0, 0)))
    assert (found.images, found.masks) == ("images/{split}/{name}.*", "masks/{split}/{name}_mask.png")
    assert [found.split_name(split) for split in ("train", "val", "test")] == ["training", "validation", None]
    assert (found.resize, found.white) == ("sparse", 4095)
    assert repr(found.reader()) == (f"IndexedLabels(classes=({table}), legal='0, 1, 254, 255 (of these ignored: 254)')")


def test_records_are_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    assert len(read_records(BEFORE / "records.jsonl")) == 8
    with Store.open(f"sqlite:///{tmp_path}/new.db", create=True) as store:
        assert take_in(store, BEFORE / "records.jsonl") == (8, 8)
        write_records(store, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (BEFORE / "records.jsonl").read_bytes()


def test_a_study_file_says_what_it_said() -> None:
    study = StudyConfig.load(str(BEFORE / "study.toml"))
    said = json.loads((BEFORE / "study.json").read_text())
    said["confirm"][0] |= {"racing": False, "trainings": None}  # settings that are newer than the file
    assert study.model_dump() == said


def test_a_search_space_holds_what_it_held() -> None:
    study = StudyConfig.load(str(BEFORE / "study.toml"))
    space = study.search_space()
    assert (space.size, space.largest.key, space.smallest.key) == (256, "bd18d6dc859324f1", "fb56e728fd1e6583")
    stored = json.loads((BEFORE / "study.json").read_text())["space"]
    assert SearchSpace.from_dict(stored, task=space.task, where="stored") == space
    assert space.as_dict() == stored


def test_presets_that_studies_name_have_the_knobs_that_they_had() -> None:
    task = StudyConfig.load("quickstart").search_space().task
    found = {name: content_key(preset(name, task=task).as_dict()) for name in PRESETS}
    assert found == {"pyramid": "3324a723d12f3bc9", "quickstart": "9e35516ef06b437f"}


def test_a_recipe_file_says_what_it_said() -> None:
    tiny = recipe_named(str(BEFORE / "recipe.toml"), dataset="folder", anchor="tiny")
    other = recipe_named(str(BEFORE / "recipe.toml"), dataset="ade20k", anchor="tiny")
    assert (tiny.name, tiny.about) == ("recipe", "a tenth of quick")
    assert (tiny.training.iterations, tiny.training.batch_size, tiny.training.learning_rate) == (200, 4, 1e-3)
    assert (other.training.iterations, other.training.batch_size, other.training.learning_rate) == (200, 8, 2e-3)
    assert tiny.training.augmentation.photometric is False
