"""Architectures and tasks: valid by construction, one key each, JSON round trip."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topformer import ANCHORS, BASE, SMALL, TINY, Candidate, MBConv, Task, TopFormer, TopFormerConfig, UserError
from topformer.blocks import decompose, token_grid
from topformer.config import named_arch, parse_image_size


@st.composite
def architectures(draw: st.DrawFn) -> TopFormerConfig:
    width = st.integers(1, 48)
    stages = tuple(
        tuple(
            MBConv(draw(st.sampled_from([3, 5, 7])), draw(st.sampled_from([1, 2, 2.5, 6])), draw(width), 2 - (row > 0))
            for row in range(draw(st.integers(1, 3)))
        )
        for _ in range(4)
    )
    arch = TINY.replace(
        stages=stages,
        num_heads=draw(st.integers(1, 4)),
        num_blocks=draw(st.integers(1, 3)),
        injection_channels=draw(st.integers(4, 32)),
        token_stride=draw(st.sampled_from([32, 64, 128])),
        injected_strides=tuple(sorted(draw(st.sets(st.sampled_from([4, 8, 16, 32]), min_size=1)))),
        depthwise_head=False,
    )
    return arch.replace(
        extractor=draw(st.sampled_from(["attention", "ffn", "none", "ppm", "aspp"])),
        head=draw(st.sampled_from(["topformer", "sum", "concat"])),
        token_source=draw(st.sampled_from(["pyramid", "last"])),
    )


@given(architectures())
def test_json_gives_back_the_same_architecture_and_key(arch: TopFormerConfig) -> None:
    again = TopFormerConfig.from_json(arch.to_json())
    assert (again, again.key, hash(again)) == (arch, arch.key, hash(arch))


@given(architectures(), architectures())
def test_keys_differ_exactly_when_architectures_do(one: TopFormerConfig, other: TopFormerConfig) -> None:
    assert (one.key == other.key) == (one == other)


@given(architectures(), st.integers(32, 200), st.integers(32, 200))
def test_logits_have_the_stride_of_the_finest_injected_scale(arch: TopFormerConfig, height: int, width: int) -> None:
    stride = arch.injected_strides[0]
    output = decompose(arch, Task(image_size=(height, width), num_classes=7))[-1].output
    assert output == (7, -(-height // stride), -(-width // stride))


def test_keys_are_stable_across_releases() -> None:
    """Stored studies are found by these keys: a change here orphans them."""
    assert {name: arch.key for name, arch in ANCHORS.items()} == {
        "tiny": "a653d7e2811eea1d",
        "small": "7617cf602e02e069",
        "base": "7a8bd7bdbc2937eb",
    }


def test_a_whole_number_written_as_a_fraction_is_the_same_architecture() -> None:
    assert MBConv(3, 4.0, 16, 1) == MBConv(3, 4, 16, 1)


def test_a_candidate_is_an_architecture_on_a_task() -> None:
    keys = {Candidate(arch=TINY, task=Task(image_size=(size, size))).key for size in (448, 512)}
    assert len(keys) == 2


@pytest.mark.parametrize(("name", "arch"), ANCHORS.items())
def test_the_semantics_stack_all_four_tokens(name: str, arch: TopFormerConfig) -> None:
    assert arch.semantic_channels == {"tiny": 208, "small": 296, "base": 384}[name]


def test_the_grid_of_output_stride_64_rounds_up_from_stride_32() -> None:
    assert [token_grid(n, n, 64)[0] for n in (1, 2, 3, 14, 15, 16)] == [1, 1, 2, 7, 8, 8]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"injected_strides": ()}, "non-empty"),
        ({"injected_strides": (32, 8)}, "ascending"),
        ({"injected_strides": (8, 12)}, "subset"),
        ({"injected_strides": (8.0, 16, 32)}, "subset"),
        ({"token_stride": 64.0}, "one of 32, 64, 128"),
        ({"token_stride": 48}, "one of 32, 64, 128"),
        ({"num_heads": 0}, "num_heads must be a whole number from 1"),
        ({"num_blocks": True}, "num_blocks"),
        ({"extractor": "lstm"}, "extractor must be one of"),
        ({"extractor": "none", "num_blocks": 4}, "num_blocks must be 0 for extractor 'none'"),
        ({"head": "sum", "injection": "full"}, "injection must be 'semantics'"),
        ({"head": "concat"}, "depthwise_head"),
        ({"injection_channels": 0}, "injection_channels"),
        ({"stem_channels": 16.0}, "stem_channels"),
        ({"stages": TINY.stages[:3]}, "stages must be 4"),
    ],
)
def test_an_impossible_architecture_is_refused_with_the_field(change: dict[str, object], fragment: str) -> None:
    with pytest.raises(UserError, match=fragment.replace("(", r"\(")):
        TINY.replace(**change)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\0", ""])
def test_text_of_any_kind_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"not JSON|expected a table"):
        TopFormerConfig.from_json(text)


def test_a_network_beyond_reason_is_refused_before_it_is_built() -> None:
    wide = tuple(tuple(MBConv(15, 16, 4096, row.stride) for row in stage) for stage in TINY.stages)
    with pytest.raises(UserError, match="networks of more than 500,000,000 are not built"):
        TopFormer(TINY.replace(stages=wide), num_classes=3)


@pytest.mark.parametrize("row", [(2, 4, 16, 1), (3, 0.5, 16, 1), (3, 4, 0, 1), (3, 4, 16, 3), (3, True, 16, 1)])
def test_an_impossible_row_is_refused(row: tuple[int, float, int, int]) -> None:
    with pytest.raises(UserError):
        MBConv(*row)


@pytest.mark.parametrize("size", [(0, 512), (31, 64), (-1, 64), (64, 9000), (64.0, 64), (64,)])
def test_an_impossible_image_size_is_refused(size: object) -> None:
    with pytest.raises(UserError, match="image"):
        Task(image_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", "512x", "x", "abc", "512x512x3", "-32", "1e3", ""])
def test_an_unreadable_image_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="image size"):
        parse_image_size(text)


def test_image_sizes_are_height_by_width() -> None:
    assert (parse_image_size("512"), parse_image_size("512x1024")) == ((512, 512), (512, 1024))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="'huge'; available: base, small, tiny"):
        named_arch("huge")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[]", "expected a table"),
        ("{", "not JSON"),
        ("{}", "missing stem_channels"),
        (TINY.to_json().replace('"num_heads"', '"heads"'), "unknown key 'heads'"),
        (TINY.to_json().replace("[3, 1, 16, 1]", "[3, 1, 16]"), "rows must be lists"),
        (TINY.to_json().replace("[3, 1, 16, 1]", '"x"'), "rows must be lists"),
        (TINY.to_json().replace('"stride2": [', '"stride2": [7, '), "rows must be lists"),
        (SMALL.to_json().replace("[8, 16, 32]", "8"), "injected_strides"),
    ],
)
def test_json_of_something_else_is_refused_with_the_source(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=f"mine.json: .*{fragment}"):
        TopFormerConfig.from_json(text, where="mine.json")


def test_replace_neutralises_what_a_choice_leaves_without_effect() -> None:
    bare = BASE.replace(extractor="none")
    assert (bare.num_blocks, bare.num_heads, bare.key_dim) == (0, 0, 0)
    assert BASE.replace(head="sum").injection == "semantics"


def test_configs_and_blocks_need_no_torch() -> None:
    code = "import sys, topformer, topformer.blocks; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
