"""Subnets against three oracles: the network they are extracted to, indices written out by hand, and the whole network
with zeros wherever the subnet has nothing.
"""

from __future__ import annotations

import copy
import pickle
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import topformer
from search_space import preset
from topformer import ANCHORS, BASE, SMALL, TINY, MBConv, Task, TopFormerConfig, UserError
from topformer.model import TopFormer, zero_start_residuals
from topformer.supernet import Supernet

CLASSES = 5
SPACES = ("quickstart", "pyramid")


def with_width(arch: TopFormerConfig, *widths: int) -> TopFormerConfig:
    stages = tuple(
        tuple(MBConv(row.kernel, row.expand, width, row.stride) for row in rows)
        for width, rows in zip(widths, arch.stages, strict=True)
    )
    return arch.replace(stages=stages)


DENSE_TINY = TINY.replace(depthwise_head=False)
PAIRS = {  # maximal architecture, subnet
    "tiny": (BASE, TINY),
    "small": (BASE, SMALL),
    "base": (BASE, BASE),
    "fewer heads and blocks": (BASE, SMALL.replace(num_heads=3, num_blocks=2)),
    "narrower heads": (BASE, SMALL.replace(key_dim=5)),
    "coarser semantics": (BASE, SMALL.replace(token_stride=32)),
    "finer scales": (BASE.replace(injected_strides=(4, 8, 16, 32)), SMALL.replace(injected_strides=(4, 16))),
    "ffn": (BASE.replace(extractor="ffn"), DENSE_TINY.replace(extractor="ffn", num_blocks=3)),
    "ffn of attention": (BASE, DENSE_TINY.replace(extractor="ffn")),
    "no extractor": (BASE.replace(extractor="none"), SMALL.replace(extractor="none")),
    "no extractor of attention": (BASE, DENSE_TINY.replace(extractor="none")),
    "ppm": (BASE.replace(extractor="ppm"), DENSE_TINY.replace(extractor="ppm")),
    "aspp": (DENSE_TINY.replace(extractor="aspp"), with_width(DENSE_TINY.replace(extractor="aspp"), 8, 24, 40, 56)),
    "last token": (BASE.replace(token_source="last"), SMALL.replace(token_source="last")),
    "ppm on the last token": (
        BASE.replace(token_source="last", extractor="ppm"),
        SMALL.replace(token_source="last", extractor="ppm"),
    ),
    "gate alone": (BASE.replace(injection="attention"), SMALL.replace(injection="attention")),
    "gate alone of both": (BASE, SMALL.replace(injection="attention")),
    "information alone": (BASE.replace(injection="semantics"), SMALL.replace(injection="semantics")),
    "sum": (BASE.replace(head="sum"), SMALL.replace(head="sum")),
    "depthwise sum": (BASE.replace(head="sum"), TINY.replace(head="sum")),
    "concat": (BASE.replace(head="concat"), SMALL.replace(head="concat")),
    "concat of fewer scales": (
        BASE.replace(head="concat"),
        DENSE_TINY.replace(head="concat", injected_strides=(8, 16)),
    ),
}


@cache
def supernet_of(maximal: TopFormerConfig) -> Supernet:
    """With every entry of every tensor drawn, so that no two are alike."""
    torch.manual_seed(0)
    supernet = Supernet(maximal, num_classes=CLASSES)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (parameter.std(correction=0) + 0.5))
    return supernet


def statistics_of(arch: TopFormerConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    buffers = dict(TopFormer(arch, num_classes=CLASSES).named_buffers())
    return {
        name: 0.5 + torch.rand(buffer.shape, generator=generator) if buffer.is_floating_point() else buffer
        for name, buffer in buffers.items()
    }


def images(*size: int) -> Tensor:
    return torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(2))


def masks(supernet: Supernet, arch: TopFormerConfig) -> dict[str, Tensor]:
    """Which entries of the supernet's parameters the slices are."""
    found = {name: np.zeros(parameter.shape, bool) for name, parameter in supernet.named_parameters()}
    for name, indices in supernet.slices_of(arch).items():
        fuse = name.startswith("head.fuse.") and arch.depthwise_head
        mask = found[name.replace("head.fuse", "depthwise_fuse") if fuse else f"network.{name}"]
        runs = [
            np.arange(size)[i if isinstance(i, slice) else list(i)] for i, size in zip(indices, mask.shape, strict=True)
        ]
        mask[np.ix_(*runs)] = True
    return {name: torch.from_numpy(mask) for name, mask in found.items()}


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_slices_are_the_extracted_network(supernet: Supernet, arch: TopFormerConfig, image: Tensor) -> None:
    with torch.no_grad():
        network = supernet.extract(arch).train()
        torch.manual_seed(3)  # of the dropout
        expected = network.segment(image)
        torch.manual_seed(3)
        assert_close(supernet.train()(image, arch), expected)
        statistics = statistics_of(arch)
        expected = supernet.extract(arch, statistics).segment(image)
        assert_close(supernet(image, arch, statistics), expected)
        assert_close(supernet.eval()(image, arch, statistics), expected)


def assert_the_rest_may_be_zero(supernet: Supernet, arch: TopFormerConfig, image: Tensor) -> None:
    """A channel whose batch norm has neither weight nor bias is zero, and a branch of such channels adds nothing.

    In double precision: unscaled queries make the softmax magnify roundings.
    """
    supernet, image = copy.deepcopy(supernet).double(), image.double()
    maximal = supernet.maximal.replace(token_stride=arch.token_stride)
    if arch.head != "concat":
        maximal = maximal.replace(injected_strides=arch.injected_strides)
    whole = TopFormer(maximal, num_classes=CLASSES).double().eval()
    kept = masks(supernet, arch)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(supernet.network.get_parameter(name) * kept[f"network.{name}"])
        logits, semantics = whole.segment(image)
        fresh = dict(TopFormer(arch, num_classes=CLASSES).double().named_buffers())
        own_logits, own_semantics = supernet(image, arch, fresh)
    assert own_logits.abs().amin() > 0
    assert_close((own_logits, alive(own_semantics)), (logits, alive(semantics)))


def alive(semantics: Tensor) -> Tensor:
    """Channels that are not zero throughout."""
    return semantics[:, semantics.abs().amax(dim=(0, 2, 3)) > 0]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_subnet_computes_what_its_extracted_network_does(pair: str) -> None:
    maximal, arch = PAIRS[pair]
    assert_slices_are_the_extracted_network(supernet_of(maximal), arch, images(33, 129))


@pytest.mark.parametrize("pair", [name for name, (_, arch) in PAIRS.items() if not arch.depthwise_head])
def test_a_subnet_is_the_whole_network_with_zeros_elsewhere(pair: str) -> None:
    maximal, arch = PAIRS[pair]
    assert_the_rest_may_be_zero(supernet_of(maximal), arch, images(64, 128))


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", SPACES)
def test_every_sampled_member_is_a_subnet_of_the_largest(name: str, count: int) -> None:
    space = preset(name, task=Task(num_classes=CLASSES))
    supernet, rng = supernet_of(space.largest.arch), random.Random(5)
    members = [space.smallest, *(space.sample(rng) for _ in range(count))]
    assert {supernet.why_not(member.arch) for member in members} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 25))])
@pytest.mark.parametrize("name", SPACES)
def test_random_members_pass_both_oracles(name: str, seed: int) -> None:
    space = preset(name, task=Task(num_classes=CLASSES))
    arch = space.sample(random.Random(seed)).arch
    assert_slices_are_the_extracted_network(supernet_of(space.largest.arch), arch, images(64, 128))
    dense = arch.replace(depthwise_head=False)
    assert_the_rest_may_be_zero(supernet_of(space.largest.arch), dense, images(64, 128))


def by_hand(**changes: object) -> tuple[TopFormerConfig, TopFormerConfig]:
    """Semantics of 2 + 3 + 4 + 5 channels, of which a subnet has 1 + 2 + 2 + 3."""
    whole = TopFormerConfig(
        stem_channels=4,
        stride2=(),
        stages=tuple((MBConv(5, 2, width, 2),) for width in (2, 3, 4, 5)),
        num_blocks=1,
        num_heads=3,
        key_dim=3,
        injection_channels=7,
    )
    part = TopFormerConfig(
        stem_channels=3,
        stride2=(),
        stages=tuple((MBConv(3, 2, width, 2),) for width in (1, 2, 2, 3)),
        num_blocks=1,
        num_heads=2,
        key_dim=2,
        injection_channels=5,
    )
    return whole.replace(**changes), part.replace(**changes)


SEMANTICS = [0, 2, 3, 5, 6, 9, 10, 11]
KEYS = [0, 1, 3, 4]
VALUES = [0, 1, 2, 3, 6, 7, 8, 9]
EIGHT, SIXTEEN, FIVE = list(range(8)), list(range(16)), list(range(5))
HAND = [  # changes of both architectures, convolution, its output and input channels
    ({}, "token_pyramid.stem", [0, 1, 2], [0, 1, 2]),
    ({}, "token_pyramid.stage8.0.expansion", [0, 1], [0]),
    ({}, "token_pyramid.stage16.0.projection", [0, 1], [0, 1, 2, 3]),
    ({}, "transformer.0.attention.query", KEYS, SEMANTICS),
    ({}, "transformer.0.attention.key", KEYS, SEMANTICS),
    ({}, "transformer.0.attention.value", VALUES, SEMANTICS),
    ({}, "transformer.0.attention.projection", SEMANTICS, VALUES),
    ({}, "transformer.0.ffn.expansion", SIXTEEN, SEMANTICS),
    ({}, "transformer.0.ffn.depthwise", SIXTEEN, [0]),
    ({}, "transformer.0.ffn.projection", SEMANTICS, SIXTEEN),
    ({}, "semantic_injection.16.local", FIVE, [0, 1]),
    ({}, "semantic_injection.32.gate", FIVE, [0, 1, 2]),
    ({}, "semantic_injection.32.information", FIVE, [0, 1, 2]),
    ({}, "head.fuse", FIVE, FIVE),
    ({}, "head.classifier", FIVE, FIVE),
    ({"extractor": "ppm"}, "transformer.0.branches.2", [0, 1], SEMANTICS),
    ({"extractor": "ppm"}, "transformer.0.fuse", SEMANTICS, [*SEMANTICS, 14, 15, 17, 18, 20, 21, 23, 24]),
    ({"extractor": "aspp"}, "transformer.0.pointwise", EIGHT, SEMANTICS),
    ({"extractor": "aspp"}, "transformer.0.dilated.1", EIGHT, SEMANTICS),
    ({"extractor": "aspp"}, "transformer.0.image", EIGHT, SEMANTICS),
    ({"extractor": "aspp"}, "transformer.0.fuse", SEMANTICS, [14 * i + c for i in range(5) for c in range(8)]),
    ({"token_source": "last"}, "transformer.0.attention.query", KEYS, [0, 1, 2]),
    ({"token_source": "last"}, "semantic_injection.8.gate", FIVE, [0, 1, 2]),
    ({"head": "sum"}, "semantic_injection.semantics", FIVE, SEMANTICS),
    ({"head": "concat"}, "head.reductions.2", [0], FIVE),  # 7 // 3 = 2 channels of each scale, 5 // 3 = 1 of a subnet's
    ({"head": "concat"}, "head.fuse", FIVE, [0, 2, 4]),
]


@pytest.mark.parametrize(("changes", "path", "outputs", "inputs"), HAND)
def test_channels_are_the_ones_written_out_by_hand(
    changes: dict[str, object], path: str, outputs: list[int], inputs: list[int]
) -> None:
    maximal, arch = by_hand(**changes)
    supernet = supernet_of(maximal)
    extracted, whole = supernet.extract(arch), dict(supernet.network.named_parameters())
    own = {
        name: tensor for name, tensor in extracted.named_parameters() if name.startswith((f"{path}.", f"{path}.conv."))
    }
    assert own
    for name, tensor in own.items():
        there = whole[name][outputs]
        assert torch.equal(tensor, there[:, inputs] if name.endswith("conv.weight") else there), name


def test_a_kernel_is_the_centre_of_the_larger_one() -> None:
    maximal, arch = by_hand()
    supernet = supernet_of(maximal)
    name = "token_pyramid.stage32.0.depthwise.conv.weight"
    whole = supernet.network.get_parameter(name)  # (8, 1, 5, 5)
    assert torch.equal(supernet.extract(arch).get_parameter(name), whole[:4, :, 1:4, 1:4])


def test_the_depthwise_fuse_convolution_has_weights_of_its_own() -> None:
    supernet = supernet_of(BASE)
    fuse = supernet.extract(TINY).get_parameter("head.fuse.conv.weight")
    assert supernet.depthwise_fuse is not None
    assert torch.equal(fuse, supernet.depthwise_fuse.get_parameter("conv.weight")[:128])


@pytest.mark.parametrize("maximal", [TINY, BASE, *(whole for whole, _ in PAIRS.values())])
def test_the_whole_network_is_its_own_subnet_without_a_copy(maximal: TopFormerConfig) -> None:
    supernet = supernet_of(maximal)
    weights = supernet.weights_of(supernet.maximal)
    whole = dict(supernet.network.named_parameters())
    assert weights.keys() == whole.keys()
    assert all(weights[name].shape == whole[name].shape for name in whole)
    assert all(weights[name].data_ptr() == whole[name].data_ptr() for name in whole)


@pytest.mark.parametrize("pair", ["tiny", "small", "ppm", "aspp", "concat of fewer scales", "gate alone of both"])
def test_gradients_reach_the_slices_and_nothing_else(pair: str) -> None:
    maximal, arch = PAIRS[pair]
    supernet = copy.deepcopy(supernet_of(maximal)).eval()  # batch statistics, no dropout
    kept = masks(supernet, arch)
    logits, semantics = supernet(images(64, 128), arch)
    (logits.square().sum() + semantics.square().sum()).backward()
    for name, parameter in supernet.named_parameters():
        if kept[name].any():
            assert parameter.grad is not None, name
            assert not parameter.grad[~kept[name]].any(), name
            cancels = name.endswith("key.norm.bias")  # a constant shift of all keys, in the softmax
            assert cancels or parameter.grad[kept[name]].any(), name
        else:
            assert parameter.grad is None, name


def test_a_step_on_a_subnet_changes_its_slices_and_nothing_else() -> None:
    supernet = copy.deepcopy(supernet_of(BASE)).train()
    before, kept = copy.deepcopy(supernet.state_dict()), masks(supernet, TINY)
    supernet(images(64, 128), TINY)[0].square().mean().backward()
    torch.optim.SGD(supernet.parameters(), lr=1.0).step()
    for name, tensor in supernet.state_dict().items():
        changed = tensor != before[name]
        assert not changed[~kept[name] if name in kept else ...].any(), name
    assert not torch.equal(supernet.network.state_dict()["head.fuse.conv.weight"], before["depthwise_fuse.conv.weight"])


def test_gradients_flow_after_a_call_in_inference_mode() -> None:
    """Indices were kept from one call to the next, and those made in inference mode refuse gradients."""
    arch = SMALL.replace(num_heads=5, key_dim=7)
    supernet = copy.deepcopy(supernet_of(BASE))
    with torch.inference_mode():
        supernet(images(64, 128), arch)
    supernet(images(64, 128), arch)[0].sum().backward()
    assert supernet.network.get_parameter("transformer.0.attention.query.conv.weight").grad is not None


@pytest.mark.parametrize("extractor", ["attention", "ppm"])
def test_a_subnet_of_a_subnet_is_a_subnet(extractor: str) -> None:
    largest, medium, small = (
        arch.replace(extractor=extractor) if extractor == "ppm" else arch
        for arch in (
            BASE.replace(key_dim=20),
            SMALL.replace(key_dim=12, num_blocks=3),
            DENSE_TINY.replace(key_dim=7, num_heads=3, num_blocks=2),
        )
    )
    supernet = supernet_of(largest)
    between = Supernet(medium, num_classes=CLASSES)
    between.network.load_state_dict(supernet.extract(medium).state_dict())
    directly = supernet.extract(small).state_dict()
    assert all(torch.equal(tensor, directly[name]) for name, tensor in between.extract(small).state_dict().items())


def test_nothing_remembers_which_subnet_ran_last() -> None:
    supernet = supernet_of(BASE).eval()
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        first = supernet(images(64, 128), TINY)
        supernet.train()(images(64, 128), SMALL)
        supernet(images(64, 128), TINY)
        supernet(images(64, 128), TINY, statistics_of(TINY))
        assert all(torch.equal(a, b) for a, b in zip(first, supernet.eval()(images(64, 128), TINY), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_given_statistics_are_left_as_they_are() -> None:
    statistics = statistics_of(TINY)
    before = copy.deepcopy(statistics)
    with torch.no_grad():
        supernet_of(BASE).train()(images(64, 128), TINY, statistics)
    supernet_of(BASE).extract(TINY, statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics.items())


def test_incomplete_statistics_are_an_error_that_names_the_missing() -> None:
    statistics = statistics_of(TINY)
    del statistics["head.fuse.norm.running_var"]
    with pytest.raises(RuntimeError, match=r"head\.fuse\.norm\.running_var"):
        supernet_of(BASE)(images(64, 128), TINY, statistics)
    with pytest.raises(RuntimeError, match=r"head\.fuse\.norm\.running_var"):
        supernet_of(BASE).extract(TINY, statistics)


def test_an_extracted_network_shares_no_memory_and_knows_no_data() -> None:
    supernet = supernet_of(BASE)
    network = supernet.extract(BASE)
    whole = dict(supernet.network.named_parameters())
    assert all(parameter.data_ptr() != whole[name].data_ptr() for name, parameter in network.named_parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    fresh = dict(TopFormer(BASE, num_classes=CLASSES).named_buffers())
    assert all(torch.equal(buffer, fresh[name]) for name, buffer in network.named_buffers())
    assert not network.training


def test_calls_and_extraction_draw_no_random_numbers() -> None:
    supernet = supernet_of(BASE).eval()
    state = torch.get_rng_state()
    arch = SMALL.replace(num_heads=2)
    with torch.no_grad():
        supernet(images(64, 128), arch)
    supernet.extract(arch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda supernet: pickle.loads(pickle.dumps(supernet))])
def test_a_copied_or_pickled_supernet_is_the_same(duplicate: object) -> None:
    supernet = supernet_of(BASE).eval()
    with torch.no_grad():
        again = duplicate(supernet)(images(64, 128), SMALL)  # type: ignore[operator]
        assert all(torch.equal(a, b) for a, b in zip(again, supernet(images(64, 128), SMALL), strict=True))


def test_a_fresh_supernet_starts_as_topformer_does() -> None:
    supernet = Supernet(BASE, num_classes=CLASSES)
    zero_start_residuals(supernet)
    assert supernet.depthwise_fuse is not None
    assert torch.equal(supernet.depthwise_fuse.get_parameter("norm.weight"), torch.ones(256))
    assert 1.2 < supernet.depthwise_fuse.get_parameter("conv.weight").std() < 1.7  # sqrt(2 / fan out of 1)
    assert not supernet.weights_of(TINY)["transformer.0.ffn.projection.norm.weight"].any()


def test_an_extracted_network_saves_and_loads(tmp_path: Path) -> None:
    network = supernet_of(BASE).extract(TINY, statistics_of(TINY))
    topformer.save_model(network, tmp_path / "subnet.safetensors")
    again = topformer.saved_model(tmp_path / "subnet.safetensors")
    with torch.inference_mode():
        assert torch.equal(again(images(64, 128)), network(images(64, 128)))


def with_row(arch: TopFormerConfig, **changes: int) -> TopFormerConfig:
    """The last row at stride 32 changed."""
    row = {"kernel": 3, "expand": 6, "channels": arch.widths[3], "stride": 1} | changes
    return arch.replace(stages=(*arch.stages[:3], (*arch.stages[3][:-1], MBConv(**row))))


REFUSED = [  # maximal architecture, one that is larger in one respect, what the error says of it
    (SMALL, SMALL.replace(stem_channels=24), "its token_pyramid.stem.conv has 24 output channels, the supernet's 16"),
    (
        SMALL,
        with_width(SMALL, 24, 48, 97, 128),
        "its token_pyramid.stage16.0.projection has 97 output channels, the supernet's 96",
    ),
    (TINY, SMALL, "its token_pyramid.stage4.0.projection has 24 output channels, the supernet's 16"),
    (
        SMALL,
        with_row(SMALL, kernel=7),
        "its token_pyramid.stage32.2.depthwise has 7 pixels of kernel, the supernet's 3",
    ),
    (
        SMALL,
        with_row(SMALL, expand=7),
        "its token_pyramid.stage32.2.expansion has 896 output channels, the supernet's 768",
    ),
    (
        with_row(SMALL, expand=1),
        with_row(SMALL, expand=2),
        "its token_pyramid.stage32.2 has expansion, which the supernet's lacks",
    ),
    (
        SMALL,
        SMALL.replace(stages=(*SMALL.stages[:3], (*SMALL.stages[3], SMALL.stages[3][2]))),
        "it has token_pyramid.stage32.3, and the supernet's token_pyramid.stage32 has 0, 1, 2",
    ),
    (SMALL, SMALL.replace(num_blocks=5), "it has transformer.4, and the supernet's transformer has 0, 1, 2, 3"),
    (SMALL, SMALL.replace(num_heads=7), "its transformer.0 has 7 heads, the supernet's 6"),
    (SMALL, SMALL.replace(num_heads=12, key_dim=8), "its transformer.0 has 12 heads, the supernet's 6"),
    (SMALL, SMALL.replace(key_dim=17), "its transformer.0 has 17 key channels per head, the supernet's 16"),
    (
        SMALL,
        SMALL.replace(num_heads=3, key_dim=32),
        "its transformer.0 has 32 key channels per head, the supernet's 16",
    ),
    (
        SMALL,
        SMALL.replace(injection_channels=193),
        "its semantic_injection.8.local has 193 output channels, the supernet's 192",
    ),
    (
        SMALL,
        SMALL.replace(injected_strides=(4, 16)),
        "it has semantic_injection.4, and the supernet's semantic_injection has 8, 16, 32",
    ),
    (
        SMALL.replace(injection="attention"),
        SMALL,
        "its semantic_injection.8 has information, which the supernet's lacks",
    ),
    (SMALL.replace(injection="semantics"), SMALL, "its semantic_injection.8 has gate, which the supernet's lacks"),
    (SMALL, SMALL.replace(head="sum"), "its head is 'sum', the supernet's 'topformer'"),
    (BASE.replace(head="concat"), SMALL.replace(head="sum"), "its head is 'sum', the supernet's 'concat'"),
    (BASE.replace(head="concat"), TINY, "its head is 'topformer', the supernet's 'concat'"),
    (
        BASE.replace(extractor="none"),
        with_width(SMALL, 8, 8, 8, 8).replace(extractor="none", token_source="last"),
        "its token_source is 'last', the supernet's 'pyramid'",
    ),
    (SMALL.replace(token_source="last"), SMALL, "its token_source is 'pyramid', the supernet's 'last'"),
    (
        SMALL,
        SMALL.replace(extractor="ppm"),
        "its transformer.0 is of kind pyramid_pooling_module, the supernet's transformer_block",
    ),
    (SMALL.replace(extractor="ffn"), SMALL, "its transformer.0 has 6 heads, the supernet's 0"),
    (
        SMALL.replace(extractor="none"),
        SMALL.replace(extractor="aspp"),
        "it has transformer.0, and the supernet's transformer has nothing",
    ),
    (
        BASE.replace(head="concat"),
        SMALL.replace(head="concat", injected_strides=(16, 32)),
        "its head concatenates strides 16-32, and the first reductions of the supernet's are of strides 8-16",
    ),
    (
        BASE.replace(head="concat"),
        BASE.replace(head="concat", injected_strides=(8, 16)),
        "its head.reductions.0 has 128 output channels, the supernet's 85",
    ),
]


@pytest.mark.parametrize(("maximal", "arch", "reason"), REFUSED)
def test_a_larger_architecture_is_refused_in_one_sentence(
    maximal: TopFormerConfig, arch: TopFormerConfig, reason: str
) -> None:
    supernet = Supernet(maximal, num_classes=CLASSES)
    sentence = f"architecture {arch.key} is no subnet of this supernet: {reason}."
    assert supernet.why_not(arch) == sentence
    for refused in (supernet.slices_of, supernet.weights_of, supernet.extract, lambda a: supernet(images(64, 128), a)):
        with pytest.raises(UserError) as error:
            refused(arch)
        assert str(error.value) == sentence


@pytest.mark.parametrize("arch", ANCHORS.values())
def test_the_anchors_are_subnets_of_base(arch: TopFormerConfig) -> None:
    assert supernet_of(BASE).why_not(arch) is None
