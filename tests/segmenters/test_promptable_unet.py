"""The embedded network: what its prompts mean, what it learned, and that company changes nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from job.data.fundus import Fundus, render
from job.segmenters.promptable_unet import modelling
from job.segmenters.promptable_unet.adapter import (
    EMBEDDED_CHECKPOINT,
    PromptableUNetSegmenter,
    content_key,
)
from job.segmenters.promptable_unet.modelling import PromptableUNet, PromptableUNetConfig
from job.segmenters.promptable_unet.pretrained import (
    PretrainedPromptableUNet,
    PretrainedPromptableUNetConfig,
    build_tokenizer,
)
from job.segmenters.promptable_unet.processing import N_CHANNELS, channels

ALL = "Please segment the retinal blood vessels."
MAJOR = "Segment the major vessels."
FINE = "Segment the fine vessels."
BUDGET_BYTES = 700_000  # of the 1 MB that all embedded weights share


@pytest.fixture(scope="module")
def segmenter() -> PromptableUNetSegmenter:
    return PromptableUNetSegmenter.load(EMBEDDED_CHECKPOINT)


@pytest.fixture(scope="module")
def pictures() -> list[Fundus]:
    return [render(np.random.default_rng([30_000, index]), 128) for index in range(8)]


def dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A user's own checkpoint of this kind: random weights, other widths, another vocabulary."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(["segment", "vessels", "veins"])
    config = PretrainedPromptableUNetConfig(widths=(8, 12), decoder_widths=(8,), vocab_size=len(tokenizer))
    PretrainedPromptableUNet(config).eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_it_learned_what_each_prompt_means(
    segmenter: PromptableUNetSegmenter, pictures: list[Fundus]
) -> None:
    """On unseen images each prompt finds its own vessels, and better than any other prompt does."""
    answers = segmenter.segment([picture.image_HWC for picture in pictures], [ALL, MAJOR, FINE])
    scores = np.zeros((3, 3))
    for picture, answer in zip(pictures, answers, strict=True):
        truths = (picture.vessels_HW, picture.major_HW, picture.vessels_HW & ~picture.major_HW)
        scores += [[dice(mask, truth) / 8 for truth in truths] for mask in answer.logits_PHW > 0]
    assert scores[0, 0] > 0.85
    assert scores[1, 1] > 0.85
    assert scores[2, 2] > 0.60
    assert (scores.argmax(axis=0) == [0, 1, 2]).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ALL, "Segment all vessels, including the finest branches."),
        (ALL, "mark the ARTERIES and veins!"),
        (MAJOR, "Segment only the thick main vessels."),
        (FINE, "outline the thin vessels, please"),
    ],
)
def test_paraphrases_agree(
    segmenter: PromptableUNetSegmenter, pictures: list[Fundus], one: str, other: str
) -> None:
    """Two ways to ask for the same vessels give nearly the same masks."""
    answers = segmenter.segment([picture.image_HWC for picture in pictures[:4]], [one, other])
    for answer in answers:
        assert dice(answer.logits_PHW[0] > 0, answer.logits_PHW[1] > 0) > 0.9


def test_company_changes_nothing(segmenter: PromptableUNetSegmenter, pictures: list[Fundus]) -> None:
    """An image's answer is the same alone, among others, and beside other prompts, but for rounding."""
    images = [picture.image_HWC for picture in pictures[:4]]
    together = segmenter.segment([images[0], images[1][:100, :90], *images[2:]], [ALL, FINE])
    alone = segmenter.segment([images[0]], [ALL])[0]
    difference = np.abs(together[0].logits_PHW[0].astype(float) - alone.logits_PHW[0])
    # Company moves a float32 by a few units in the last place; float16 can turn that into one of its own.
    step = np.spacing(np.abs(alone.logits_PHW[0])).astype(float)
    assert (difference <= step).all()
    assert np.allclose(together[0].embedding_D, alone.embedding_D, rtol=0, atol=1e-4)


def test_equal_batches_give_equal_bits(segmenter: PromptableUNetSegmenter, pictures: list[Fundus]) -> None:
    """The same call twice gives the same bytes."""
    images = [picture.image_HWC for picture in pictures[:3]]
    for one, two in zip(segmenter.segment(images, [ALL]), segmenter.segment(images, [ALL]), strict=True):
        assert one.logits_PHW.tobytes() == two.logits_PHW.tobytes()
        assert one.embedding_D.tobytes() == two.embedding_D.tobytes()


@pytest.mark.parametrize("shape", [(128, 128), (61, 97), (8, 200), (3, 5)])
def test_any_size_in_the_same_size_out(segmenter: PromptableUNetSegmenter, shape: tuple[int, int]) -> None:
    """Sizes need be no multiple of anything; the embedding's size never changes."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    (answer,) = segmenter.segment([image], [ALL, MAJOR])
    assert answer.logits_PHW.shape == (2, *shape)
    assert answer.logits_PHW.dtype == np.float16
    assert np.isfinite(answer.logits_PHW).all()
    assert answer.embedding_D.shape == (112,)
    assert answer.embedding_D.dtype == np.float32


@pytest.mark.parametrize("value", [0, 255])
def test_an_image_without_content_is_no_crash(segmenter: PromptableUNetSegmenter, value: int) -> None:
    """A black or a white image has finite logits: nothing is divided by its missing contrast."""
    (answer,) = segmenter.segment([np.full((64, 64, 3), value, dtype=np.uint8)], [ALL])
    assert np.isfinite(answer.logits_PHW).all()
    assert np.isfinite(answer.embedding_D).all()


def test_odd_prompts_are_no_crash(segmenter: PromptableUNetSegmenter, pictures: list[Fundus]) -> None:
    """Prompts of unknown words, of punctuation, of nothing, or very long ones give finite logits."""
    prompts = ["xylophone", "?!", "", ALL * 100]
    (answer,) = segmenter.segment([pictures[0].image_HWC], prompts)
    assert np.isfinite(answer.logits_PHW).all()
    (answer,) = segmenter.segment([pictures[0].image_HWC], [""])
    assert np.isfinite(answer.logits_PHW).all()


def test_misuse_is_refused(segmenter: PromptableUNetSegmenter) -> None:
    """No prompts, grey images and floats are errors that say what was given."""
    with pytest.raises(ValueError, match="prompt"):
        segmenter.segment([np.zeros((8, 8, 3), dtype=np.uint8)], [])
    with pytest.raises(ValueError, match="image 1"):
        segmenter.segment([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)], [ALL])


def test_a_users_checkpoint_loads_the_same_way(tmp_path: Path) -> None:
    """A folder of another shape and vocabulary is loaded by the same code, and survives a round trip."""
    segmenter = PromptableUNetSegmenter.load(tiny_checkpoint(tmp_path / "own"))
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    (answer,) = segmenter.segment([image], ["segment vessels"])
    again = PromptableUNetSegmenter.load(shutil.copytree(tmp_path / "own", tmp_path / "copy"))
    assert again.key == segmenter.key
    assert np.array_equal(again.segment([image], ["segment vessels"])[0].logits_PHW, answer.logits_PHW)


def test_the_key_names_the_content(tmp_path: Path) -> None:
    """Other weights, another configuration or another vocabulary make another key; a README does not."""
    folder = tiny_checkpoint(tmp_path / "a")
    keys = {content_key(folder), content_key(tiny_checkpoint(tmp_path / "b", seed=1))}
    (folder / "README.md").write_text("about this model")
    assert content_key(folder) in keys
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        keys.add(content_key(folder))
    assert len(keys) == 5
    assert all(len(key) == 64 for key in keys)


def test_a_folder_that_lacks_files_says_which(tmp_path: Path) -> None:
    """The error names the missing file, for the key as for the model."""
    folder = tiny_checkpoint(tmp_path / "a")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        PromptableUNetSegmenter.load(folder)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        content_key(folder)


def test_the_checkpoint_keeps_to_its_budget() -> None:
    """The embedded files are small enough for a repository, in float16, and carry their model card."""
    assert sum(path.stat().st_size for path in EMBEDDED_CHECKPOINT.iterdir()) <= BUDGET_BYTES
    assert "Apache-2.0" in (EMBEDDED_CHECKPOINT / "README.md").read_text()


def test_training_and_inference_decode_alike() -> None:
    """Prompts folded into one batch (training) give the logits of one prompt after the other (inference)."""
    torch.manual_seed(0)
    network = PromptableUNet(PromptableUNetConfig(vocab_size=9)).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens = torch.randint(2, 9, (2, 3, 4))
    with torch.inference_mode():
        one_by_one = network(pixels, tokens).logits
        network.training = True  # this module's own flag alone: its normalisations keep their statistics
        folded = network(pixels, tokens).logits
    assert torch.allclose(one_by_one, folded, atol=1e-5)
    assert not torch.allclose(one_by_one[:, 0], one_by_one[:, 1])


def test_channels_ignore_exposure_and_what_lies_outside_the_field() -> None:
    """Less light gives nearly the same input; the dark surroundings are zero, but for a rim."""
    picture = render(np.random.default_rng(4), 96)
    image = torch.from_numpy(picture.image_HWC).permute(2, 0, 1)[None]
    bright, dim = channels(image), channels((image.float() / 1.6).round().to(torch.uint8))
    assert bright.shape == (1, N_CHANNELS, 96, 96)
    inside = torch.from_numpy(picture.fov_HW)
    outside = torch.from_numpy(~ndimage.binary_dilation(picture.fov_HW, iterations=4))
    assert outside.sum() > 500
    assert not bright[0, :, outside].any()
    assert (bright - dim)[0, :5, inside].abs().mean() < 0.25
    assert bright[0, :3, inside].mean(1).abs().max() < 0.1


def test_tokens_are_words_without_case_or_punctuation() -> None:
    """The tokenizer lowers, drops punctuation, and maps unknown words to one token."""
    tokenizer = build_tokenizer(["blood", "vessels"])
    encoded = tokenizer(["Blood-Vessels!", "blood clots", "  "])["input_ids"]
    assert encoded == [[2, 3], [2, 1], []]


def test_large_images_are_computed_in_stripes_with_equal_logits(
    segmenter: PromptableUNetSegmenter, pictures: list[Fundus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stripe sees the rows beyond it that its own look at: borders leave no trace, at any size."""
    image = np.ascontiguousarray(np.pad(pictures[0].image_HWC, ((0, 5), (0, 17), (0, 0)), mode="reflect"))
    (whole,) = segmenter.segment([image], [ALL, FINE])
    for pixels in (145 * 40, 145 * 7, 1):
        monkeypatch.setattr(modelling, "_PIXELS_OF_A_STRIPE", pixels)
        (striped,) = segmenter.segment([image], [ALL, FINE])
        np.testing.assert_allclose(striped.logits_PHW, whole.logits_PHW, rtol=1e-3, atol=4e-3)  # a step
        np.testing.assert_allclose(striped.embedding_D, whole.embedding_D, atol=1e-5)
