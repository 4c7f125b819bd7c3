"""describe as a person types it."""

from __future__ import annotations

import pytest

from tests.support.shell import Shell
from topformer import ANCHORS, TINY


@pytest.mark.parametrize(("name", "params"), [("tiny", 1_389_654), ("small", 3_034_662), ("base", 5_062_646)])
def test_describe_prints_the_published_counts(name: str, params: int, shell: Shell) -> None:
    content = shell.json("describe", name)
    assert isinstance(content, dict)
    assert (content["key"], content["params"]) == (ANCHORS[name].key, params)
    assert (content["image_size"], content["num_classes"]) == ([512, 512], 150)
    assert sum(content["params_by_module"].values()) == params
    assert sum(block["macs"] for block in content["blocks"]) / 1e9 == content["macs_g"]


def test_describe_takes_size_classes_and_classification(shell: Shell) -> None:
    tiny = shell.json("describe", "tiny", "--size", "448")
    assert isinstance(tiny, dict)
    assert round(tiny["macs_g"] * 1e9) == 408_363_648
    assert round(tiny["fvcore_g"] * 1e9) == 440_520_192
    classifier = shell.json("describe", "tiny", "--classification")
    assert isinstance(classifier, dict)
    assert (classifier["params"], round(classifier["fvcore_g"] * 1e3, 2)) == (1_503_304, 126.26)


def test_describe_reads_a_json_file(shell: Shell) -> None:
    (shell.folder / "mine.json").write_text(TINY.replace(num_heads=2).to_json())
    content = shell.json("describe", "mine.json", "--classes", "19", "--size", "512x1024")
    assert isinstance(content, dict)
    assert (content["num_classes"], content["image_size"]) == (19, [512, 1024])


def test_describe_for_people_names_every_block(shell: Shell) -> None:
    code, out, _ = shell("describe", "tiny")
    assert code == 0
    assert all(word in out for word in ("token_pyramid.stem", "transformer.3", "semantic_injection.8", "1,389,654"))
