"""The embedded network with weights that may learn: logits with a gradient, checkpoints that others read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from job.data.fundus import sample
from job.segmenters.promptable_unet.adapter import (
    EMBEDDED_CHECKPOINT,
    PromptableUNetSegmenter,
    content_key,
)
from job.segmenters.promptable_unet.pretrained import PretrainedPromptableUNet
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet, open_trainable

PROMPTS = ["Please segment the retinal blood vessels.", "Segment the fine vessels."]


@pytest.fixture
def trainable() -> TrainablePromptableUNet:
    return open_trainable(EMBEDDED_CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return sample(3, seed=5, size=64).image_HWC


def pixels_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


def changed(trainable: TrainablePromptableUNet) -> None:
    """Take a step, and let normalisation move its statistics."""
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    trainable.train(True)
    trainable.logits(pixels, PROMPTS).square().mean().backward()
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    trainable.train(False)


def test_logits_are_those_of_the_segmenter(trainable: TrainablePromptableUNet, image: np.ndarray) -> None:
    """Rounded to float16 they are what the segmenter gives, prompt by prompt."""
    logits = trainable.logits(pixels_of(image), PROMPTS)
    assert logits.requires_grad
    assert logits.dtype == torch.float32
    (answer,) = PromptableUNetSegmenter.load(EMBEDDED_CHECKPOINT).segment([image], PROMPTS)
    assert np.array_equal(logits[0].detach().to(torch.float16).numpy(), answer.logits_PHW)


def test_a_saved_checkpoint_is_read_by_this_program_and_by_transformers(
    trainable: TrainablePromptableUNet, image: np.ndarray, tmp_path: Path
) -> None:
    """After a step both give the logits of the network in training, which are other ones than before."""
    before = trainable.logits(pixels_of(image), PROMPTS).detach()
    changed(trainable)
    after = trainable.logits(pixels_of(image), PROMPTS).detach()
    trainable.save(tmp_path / "saved")
    (answer,) = PromptableUNetSegmenter.load(tmp_path / "saved").segment([image], PROMPTS)
    assert np.array_equal(answer.logits_PHW, after[0].to(torch.float16).numpy())
    network = PretrainedPromptableUNet.from_pretrained(tmp_path / "saved").eval()
    assert network.dtype == torch.float32
    words = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    tokens = words(PROMPTS, padding=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.allclose(network(pixels_of(image), tokens).logits, after, atol=1e-4)
    assert (after - before).abs().max() > 0.01


def test_equal_weights_are_equal_files(
    trainable: TrainablePromptableUNet, image: np.ndarray, tmp_path: Path
) -> None:
    """Whatever was asked of the network in between: its key stands for what it computes."""
    trainable.save(tmp_path / "fresh")
    trainable.logits(pixels_of(image), PROMPTS)
    trainable.save(tmp_path / "asked")
    open_trainable(tmp_path / "asked", "cpu").save(tmp_path / "again")
    keys = {content_key(tmp_path / name) for name in ("fresh", "asked", "again")}
    assert len(keys) == 1


def test_state_comes_back(trainable: TrainablePromptableUNet, image: np.ndarray) -> None:
    """Parameters and running statistics are a copy, and putting them back undoes a step."""
    state = trainable.state()
    before = trainable.logits(pixels_of(image), PROMPTS).detach()
    changed(trainable)
    now = trainable.state()
    moved = {name for name in state if not torch.equal(state[name], now[name])}
    assert {"head.weight", "encoder.0.norm1.running_mean"} <= moved
    trainable.load_state(state)
    assert torch.equal(trainable.logits(pixels_of(image), PROMPTS), before)


def test_normalisation_follows_the_mode(trainable: TrainablePromptableUNet, image: np.ndarray) -> None:
    """Out of training, logits with a gradient leave the running statistics alone."""
    before = trainable.state()
    trainable.logits(pixels_of(image), PROMPTS).sum().backward()
    assert all(torch.equal(values, before[name]) for name, values in trainable.state().items())


def test_a_saved_checkpoint_may_be_trained_on(
    trainable: TrainablePromptableUNet, image: np.ndarray, tmp_path: Path
) -> None:
    """What was saved opens again with the same logits."""
    changed(trainable)
    trainable.save(tmp_path / "one")
    again = open_trainable(tmp_path / "one", "cpu")
    assert torch.equal(again.logits(pixels_of(image), PROMPTS), trainable.logits(pixels_of(image), PROMPTS))
