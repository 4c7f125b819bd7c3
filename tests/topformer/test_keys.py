"""Latency-table keys are a file format: tables measured years ago hold them, so each is pinned here to the letter."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from latency_lut.table import LatencyTable
from topformer import ANCHORS, BASE, SMALL, TINY, Task, TopFormerConfig, UserError
from topformer.blocks import Block, decompose
from topformer.keys import KEY_VERSION, SIZE_SETTINGS, ParsedKey, kind_of, parse_key, write_key

PINNED = """
stem(out_channels=16) 3x512x512->16x256x256
stem(out_channels=16) 3x224x224->16x112x112
stem(out_channels=16) 3x128x256->16x64x128
inverted_residual(in_channels=16,hidden_channels=16,out_channels=16,kernel=3,stride=1,expands=0) 16x256x256->16x256x256
inverted_residual(in_channels=48,hidden_channels=144,out_channels=96,kernel=3,stride=2,expands=1) 48x28x28->96x14x14
inverted_residual(in_channels=160,hidden_channels=960,out_channels=160,kernel=3,stride=1,expands=1) 160x4x8->160x4x8
pooling(channels=16) 16x128x128->16x8x8
pooling(channels=160) 160x14x14->160x7x7
pooling(channels=160) 160x4x8->160x4x8
concatenation(parts=4) 208x8x8
concatenation(parts=4) 384x7x7
concatenation(parts=4) 384x4x8
transformer_block(channels=208,num_heads=4,key_dim=16) 208x8x8->208x8x8
transformer_block(channels=384,num_heads=0,key_dim=0) 384x7x7->384x7x7
transformer_block(channels=384,num_heads=8,key_dim=16) 384x4x8->384x4x8
injection(local_channels=32,semantic_channels=32,out_channels=128,injection=full) 32x64x64+32x8x8->128x64x64
injection(local_channels=48,semantic_channels=48,out_channels=192,injection=semantics) 48x64x64+48x8x8->192x64x64
injection(local_channels=160,semantic_channels=160,out_channels=256,injection=attention) 160x4x8+160x2x4->256x4x8
head(channels=128,num_scales=3,num_classes=150,depthwise=1,concatenates=0) 128x64x64+128x32x32+128x16x16->150x64x64
head(channels=192,num_scales=3,num_classes=150,depthwise=0,concatenates=1) 192x64x64+192x32x32+192x16x16->150x64x64
head(channels=128,num_scales=3,num_classes=2,depthwise=0,concatenates=0) 128x16x32+128x8x16+128x4x8->2x16x32
resize(channels=150) 150x64x64->150x512x512
resize(channels=19) 19x56x56->19x448x448
resize(channels=2) 2x16x32->2x128x256
argmax(channels=150) 150x512x512->1x512x512
argmax(channels=19) 19x448x448->1x448x448
argmax(channels=2) 2x128x256->1x128x256
classifier(channels=208,num_classes=1000) 208x7x7->1000x1x1
classifier(channels=96,num_classes=1000) 96x7x7->1000x1x1
classifier(channels=384,num_classes=1000) 384x7x7->1000x1x1
pyramid_pooling_module(channels=208) 208x8x8->208x8x8
pyramid_pooling_module(channels=296) 296x7x7->296x7x7
pyramid_pooling_module(channels=384) 384x2x4->384x2x4
atrous_pyramid_pooling(channels=208) 208x8x8->208x8x8
atrous_pyramid_pooling(channels=296) 296x7x7->296x7x7
atrous_pyramid_pooling(channels=384) 384x2x4->384x2x4
semantics_projection(in_channels=208,out_channels=128) 208x8x8->128x8x8
semantics_projection(in_channels=296,out_channels=192) 296x7x7->192x7x7
semantics_projection(in_channels=384,out_channels=256) 384x2x4->256x2x4
addition(local_channels=32,out_channels=128) 32x64x64+128x8x8->128x64x64
addition(local_channels=96,out_channels=192) 96x28x28+192x7x7->192x28x28
addition(local_channels=160,out_channels=256) 160x4x8+256x2x4->256x4x8
""".strip().splitlines()

TASKS = (
    Task(output="labels"),
    Task(image_size=(448, 448), num_classes=19, output="labels"),
    Task(image_size=(128, 256), num_classes=2, output="labels"),
    Task(kind="classification", image_size=(224, 224), num_classes=1000),
)


def variants(arch: TopFormerConfig) -> tuple[TopFormerConfig, ...]:
    """Networks that have every kind of block between them."""
    dense = arch.replace(depthwise_head=False)
    return (
        arch,
        dense,
        dense.replace(head="concat"),
        arch.replace(head="sum"),
        arch.replace(extractor="ffn"),
        arch.replace(extractor="ppm"),
        arch.replace(extractor="aspp"),
        arch.replace(injection="semantics"),
        arch.replace(injection="attention"),
        arch.replace(token_source="last"),
        arch.replace(token_stride=32),
    )


@cache
def blocks() -> dict[str, Block]:
    """By key."""
    networks = (decompose(arch, task) for anchor in (TINY, SMALL, BASE) for arch in variants(anchor) for task in TASKS)
    return {block.key: block for network in networks for block in network}


def test_a_block_still_has_the_key_that_tables_hold() -> None:
    assert [key for key in PINNED if key not in blocks()] == []
    assert KEY_VERSION == 1


def test_every_kind_of_block_has_three_pinned_keys() -> None:
    assert Counter(map(kind_of, PINNED)) == {block.kind: 3 for block in blocks().values()}


def test_a_key_says_the_kind_the_settings_and_the_shapes_of_its_block() -> None:
    for key, block in blocks().items():
        parsed = parse_key(key)
        inputs = block.inputs if block.kind != "concatenation" else ()
        assert (parsed.kind, parsed.inputs, parsed.output) == (block.kind, inputs, block.output)
        assert write_key(parsed.kind, parsed.settings, parsed.inputs, parsed.output) == key
    assert parse_key("injection(out_channels=128,injection=full) 32x64x64+32x8x8->128x64x64") == ParsedKey(
        kind="injection",
        settings={"out_channels": 128, "injection": "full"},
        inputs=((32, 64, 64), (32, 8, 8)),
        output=(128, 64, 64),
    )


def test_every_row_of_the_shipped_table_has_a_key_of_this_format() -> None:
    [shipped] = (Path(__file__).parents[2] / "latency_lut" / "tables").glob("*.lut")
    rows = LatencyTable.load(shipped).rows
    assert {parse_key(key).kind for key in rows} == {kind_of(key) for key in rows}


def test_every_setting_either_makes_a_block_larger_or_another_one() -> None:
    others = {"kernel", "stride", "expands", "parts", "injection", "num_scales", "depthwise", "concatenates"}
    assert {name for key in blocks() for name in parse_key(key).settings} == SIZE_SETTINGS | others


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stem",
        "stem(out_channels=16)",
        "stem(out_channels=16) 3x512->16x256x256",
        "stem(out_channels=16) 3x512x512->16x256x256 ",
        "stem(out_channels=016) 3x512x512->16x256x256",
        "stem(out_channels=16,) 3x512x512->16x256x256",
        "stem(16) 3x512x512->16x256x256",
        "stem(out_channels=16) 3x512x512+->16x256x256",
        "stem(out_channels=١٦) 3x512x512->16x256x256",
    ],
)
def test_another_text_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(UserError, match="is no latency-table key"):
        parse_key(text)


def test_a_key_is_written_once_and_two_equal_blocks_share_it() -> None:
    first, again = (decompose(ANCHORS["tiny"], Task())[0] for _ in range(2))
    assert first.key is first.key
    assert (first, first.key, hash(first)) == (again, again.key, hash(again))
