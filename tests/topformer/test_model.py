"""Numerics of the network, against an oracle written from the published description alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import topformer
from tests.support.topformer_oracle import released_classification_checkpoint, released_segmentation_checkpoint
from topformer import ANCHORS, SMALL, TINY, Task, UserError
from topformer.blocks import decompose
from topformer.model import BlockModule, TopFormer, TransformerBlock, set_drop_path, zero_start_residuals

SIZES = [(512, 512), (96, 96), (32, 32), (33, 70), (97, 161), (352, 480)]


@pytest.mark.parametrize("name", ANCHORS)
def test_released_segmentation_weights_give_the_reference_logits(name: str, tmp_path: Path) -> None:
    oracle = released_segmentation_checkpoint(name, tmp_path / "released.pth", seed=5)  # type: ignore[arg-type]
    model = topformer.load_model(name, weights=tmp_path / "released.pth")
    for size in SIZES:
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(size[0]))
        with torch.inference_mode():
            assert (model(image) - oracle(image)).abs().max() < 1e-4, size


@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize("key", ["state_dict_ema", "state_dict", "model"])
def test_released_classification_weights_give_the_reference_logits(name: str, key: str, tmp_path: Path) -> None:
    oracle = released_classification_checkpoint(name, tmp_path / "released.pth", seed=6, key=key)  # type: ignore[arg-type]
    model = topformer.load_classifier(name, weights=tmp_path / "released.pth")
    image = torch.randn(2, 3, 224, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (model(image) - oracle(image)).abs().max() < 1e-4


def test_every_tensor_of_a_released_checkpoint_arrives(tmp_path: Path) -> None:
    """Key biases and running means cannot show in the logits: the softmax cancels a constant shift of all keys."""
    oracle = released_segmentation_checkpoint("small", tmp_path / "released.pth", seed=7)
    model = topformer.load_model("small", weights=tmp_path / "released.pth")

    def fingerprint(network: nn.Module) -> list[tuple[tuple[int, ...], float]]:
        return sorted((tuple(t.shape), float(t.double().sum())) for t in network.state_dict().values())

    assert fingerprint(model) == fingerprint(oracle)
    theirs, ours = oracle.state_dict(), model.state_dict()
    prefix = "backbone.trans.transformer_blocks.0.attn.to_k"
    assert torch.equal(ours["transformer.0.attention.key.norm.bias"], theirs[f"{prefix}.bn.bias"])
    assert torch.equal(ours["transformer.0.attention.key.norm.running_mean"], theirs[f"{prefix}.bn.running_mean"])


@pytest.mark.parametrize("output", ["resized", "labels"])
def test_post_processing_resizes_and_labels(output: str) -> None:
    model = TopFormer(TINY, num_classes=5, output=output).eval()  # type: ignore[arg-type]
    plain = TopFormer(TINY, num_classes=5).eval()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 70, 99)
    resized = nn.functional.interpolate(plain(image), size=(70, 99), mode="bilinear", align_corners=False)
    expected = resized if output == "resized" else resized.argmax(1, keepdim=True)
    assert torch.equal(model(image), expected)


@pytest.mark.parametrize("block", decompose(SMALL, Task(image_size=(70, 99), output="labels")), ids=lambda b: b.name)
def test_a_block_alone_has_the_described_output(block: topformer.blocks.Block) -> None:
    module = BlockModule(block).eval()
    out = module(*(torch.randn(1, *shape) for shape in block.inputs))
    assert tuple(out.shape) == (1, *block.output)


def test_images_below_32_px_are_refused() -> None:
    with pytest.raises(UserError, match="at least 32 px"):
        topformer.load_model("tiny")(torch.zeros(1, 3, 31, 64))


def test_zero_started_residuals_make_every_branch_silent() -> None:
    model = TopFormer(TINY, num_classes=5).eval()
    zero_start_residuals(model)
    x = torch.randn(1, 208, 4, 4)
    assert torch.equal(model.transformer(x), x)
    row = model.get_submodule("token_pyramid.stage4.1")
    assert torch.equal(row(torch.ones(1, 16, 8, 8)), torch.ones(1, 16, 8, 8))


def test_training_mode_reaches_every_parameter() -> None:
    model = TopFormer(TINY, num_classes=5).train()
    model(torch.randn(4, 3, 64, 96)).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == []


def test_drop_path_rises_linearly_and_keeps_the_mean() -> None:
    model = TopFormer(TINY, num_classes=3)
    set_drop_path(model, 0.3)
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    assert [block.drop_path for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    torch.manual_seed(0)
    kept = blocks[-1]._kept(torch.ones(4000, 1, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert float(kept.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(blocks[-1].eval()._kept(kept), kept)
