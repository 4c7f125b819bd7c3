"""Every number of the published counts, from the blocks, from the built modules and from fvcore itself.

Sources: TopFormer, arXiv:2204.05525, Tables 1 and 6 and its supplement, and the released networks.
"""

from __future__ import annotations

import logging

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from topformer import ANCHORS, BASE, SMALL, TINY, Task, TopFormer, TopFormerClassifier, TopFormerConfig
from topformer.blocks import decompose, parameters_by_module, total

DENSE_TINY = TINY.replace(depthwise_head=False)


def parameters(arch: TopFormerConfig, task: Task | None = None) -> int:
    return sum(block.parameters for block in decompose(arch, task or Task()))


def cost_at(arch: TopFormerConfig, size: int) -> tuple[int, int]:
    return tuple(total(block.cost for block in decompose(arch, Task(image_size=(size, size)))))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arch", "whole", "pyramid", "transformer", "injection", "head"),
    [
        (TINY, 1_389_654, 256_832, 1_037_056, 76_032, 19_734),
        (DENSE_TINY, 1_405_910, 256_832, 1_037_056, 76_032, 35_990),
        (SMALL, 3_034_662, 688_272, 2_120_064, 160_128, 66_198),
        (BASE, 5_062_646, 1_097_056, 3_586_048, 274_944, 104_598),
    ],
)
def test_parameters_of_each_module_are_the_published_ones(
    arch: TopFormerConfig, whole: int, pyramid: int, transformer: int, injection: int, head: int
) -> None:
    assert parameters(arch) == whole
    assert parameters_by_module(decompose(arch, Task())) == {
        "token_pyramid": pyramid,
        "transformer": transformer,
        "semantic_injection": injection,
        "head": head,
    }


@pytest.mark.parametrize(
    ("arch", "size", "macs", "fvcore"),
    [
        (TINY, 512, 534_110_208, 576_110_592),
        (DENSE_TINY, 512, 600_694_784, 642_695_168),
        (SMALL, 512, 1_112_297_472, 1_167_609_856),
        (BASE, 512, 1_752_203_264, 1_820_188_672),
        (TINY, 448, 408_363_648, 440_520_192),
        (DENSE_TINY, 448, 459_342_464, 491_499_008),
        (SMALL, 448, 850_756_032, 893_104_576),
        (BASE, 448, 1_340_401_664, 1_392_452_992),
    ],
)
def test_multiply_adds_and_fvcore_totals_are_the_published_ones(
    arch: TopFormerConfig, size: int, macs: int, fvcore: int
) -> None:
    assert cost_at(arch, size) == (macs, fvcore)


@pytest.mark.parametrize(
    ("name", "count", "fvcore_m"),
    [("tiny", 1_503_304, 126.26), ("small", 3_105_928, 235.16), ("base", 5_068_872, 373.29)],
)
def test_classification_counts_are_the_published_ones(name: str, count: int, fvcore_m: float) -> None:
    task = Task(kind="classification", image_size=(224, 224), num_classes=1000)
    assert parameters(ANCHORS[name], task) == count
    assert round(total(b.cost for b in decompose(ANCHORS[name], task)).fvcore_flops / 1e6, 2) == fvcore_m


@pytest.mark.parametrize(
    ("change", "count", "fvcore_g"),
    [
        ({"injection_channels": 256}, 5_062_646, 1.820),
        ({"injection_channels": 192}, 4_955_510, 1.627),
        ({"injection_channels": 128}, 4_856_566, 1.467),
        ({"token_stride": 32}, 5_062_646, 2.638),
        ({"token_stride": 64}, 5_062_646, 1.820),
        ({"token_stride": 128}, 5_062_646, 1.634),
        ({"injected_strides": (4, 8, 16, 32)}, None, 3.323),
        ({"injected_strides": (8, 16, 32)}, 5_062_646, 1.820),
        ({"injected_strides": (16, 32)}, None, 1.412),
        ({"injection": "attention"}, 4_970_998, None),
        ({"injection": "semantics"}, 4_970_998, None),
        ({"head": "sum"}, 4_978_166, None),
        ({"head": "concat"}, 5_043_700, None),
    ],
)
def test_ablations_of_base_have_the_published_counts(
    change: dict[str, object], count: int | None, fvcore_g: float | None
) -> None:
    arch = BASE.replace(**change)
    if count is not None:
        assert parameters(arch) == count
    if fvcore_g is not None:
        assert round(cost_at(arch, 512)[1] / 1e9, 3) == fvcore_g


@pytest.mark.slow
def test_cityscapes_flops_need_base_with_128_injection_channels() -> None:
    """Supplement, Table 2: 2.7 G at 512x1024 and 11.2 G at 1024x2048, 19 classes; fvcore without its norm term."""
    arch = BASE.replace(injection_channels=128)

    def flops_without_norms(size: tuple[int, int]) -> float:
        model = TopFormer(arch, num_classes=19).eval()
        counts = fvcore_counts(model, size).by_operator()
        return sum(count for operator, count in counts.items() if operator != "batch_norm") / 1e9

    assert round(flops_without_norms((512, 1024)), 1) == 2.7
    assert round(flops_without_norms((1024, 2048)), 1) == 11.2


def test_the_extractor_holds_most_of_tiny_and_costs_little() -> None:
    """Figure 3's text: 74 % of the parameters, about 10 % of the computation."""
    blocks = decompose(TINY, Task())
    share = sum(b.parameters for b in blocks if b.module == "transformer") / parameters(TINY)
    assert 0.73 < share < 0.75
    assert sum(b.macs for b in blocks if b.module == "transformer") / total(b.cost for b in blocks).macs < 0.15


VARIANTS = {
    "tiny": TINY,
    "dense tiny": DENSE_TINY,
    "base": BASE,
    "gate only": BASE.replace(injection="attention"),
    "information only": BASE.replace(injection="semantics"),
    "sum head": BASE.replace(head="sum"),
    "concat head": SMALL.replace(head="concat"),
    "ffn only": TINY.replace(extractor="ffn"),
    "no extractor": TINY.replace(extractor="none"),
    "ppm": TINY.replace(extractor="ppm"),
    "aspp": TINY.replace(extractor="aspp"),
    "last token": SMALL.replace(token_source="last"),
    "last token, sum head": SMALL.replace(token_source="last", head="sum"),
    "stride 32, one scale": TINY.replace(token_stride=32, injected_strides=(16,)),
    "stride 128, all scales": BASE.replace(token_stride=128, injected_strides=(4, 8, 16, 32)),
    "stride 4 alone, concat": BASE.replace(head="concat", injected_strides=(4,)),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(96, 160), (71, 45)])
def test_sums_over_blocks_equal_the_whole_model(name: str, size: tuple[int, int]) -> None:
    arch = VARIANTS[name]
    blocks = decompose(arch, Task(image_size=size, num_classes=21))
    model = TopFormer(arch, num_classes=21).eval()
    assert sum(b.parameters for b in blocks) == sum(p.numel() for p in model.parameters())
    assert total(b.cost for b in blocks).fvcore_flops == fvcore_counts(model, size).total()
    assert tuple(model(torch.zeros(2, 3, *size)).shape) == (2, *blocks[-1].output)


@pytest.mark.parametrize("name", ["tiny", "ffn only", "no extractor", "last token"])
def test_sums_over_blocks_equal_the_whole_classifier(name: str) -> None:
    arch = VARIANTS[name]
    blocks = decompose(arch, Task(kind="classification", image_size=(97, 64), num_classes=10))
    model = TopFormerClassifier(arch, num_classes=10).eval()
    assert sum(b.parameters for b in blocks) == sum(p.numel() for p in model.parameters())
    assert total(b.cost for b in blocks).fvcore_flops == fvcore_counts(model, (97, 64)).total()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_block_is_a_module_of_the_network_with_its_parameters(name: str) -> None:
    arch = VARIANTS[name]
    model = TopFormer(arch, num_classes=150, output="labels")
    for block in decompose(arch, Task(output="labels")):
        assert sum(p.numel() for p in model.get_submodule(block.name).parameters()) == block.parameters, block.name


def fvcore_counts(model: torch.nn.Module, size: tuple[int, int]) -> FlopCountAnalysis:
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    return FlopCountAnalysis(model, torch.zeros(1, 3, *size)).unsupported_ops_warnings(False)
