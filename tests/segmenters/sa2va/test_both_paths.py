"""The adapter on a small checkpoint of our own with Sa2VA's surface: both paths, trust, odd replies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from job.actions import ActionSpace, PostProcess, apply
from job.errors import InputError, IntegrityError, JobError, SpecError
from job.segmenters.remote_code import trust_digest
from job.segmenters.sa2va import language
from job.segmenters.sa2va import shared as shared_module
from job.segmenters.sa2va.adapter import Sa2vaSegmenter
from job.segmenters.sa2va.agreement import enlarged
from job.segmenters.sa2va.counters import Counters
from job.segmenters.sa2va.shared import Shared
from tests.segmenters.sa2va.stand_in import LOOP, NONE, SURE, make, options

PROMPTS = ("Segment the vessels.", "fine", "thick ones")


def opened(folder: Path, reply: Sequence[str] = SURE) -> Sa2vaSegmenter:
    """Make a checkpoint that answers `reply`, and load it in float32."""
    made = make(folder / "checkpoint", reply)
    return Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust_digest(made)))


@pytest.fixture
def images() -> list[NDArray[np.uint8]]:
    """Two pictures of different shapes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 80), (90, 50))]


def test_both_paths_give_the_same_masks(tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    """On every pixel in float32, and an image's answer does not depend on its company."""
    segmenter = opened(tmp_path)
    together = segmenter.segment(images, PROMPTS)
    agreement = segmenter.verify_pairs(images, PROMPTS, 6, seed=0)
    assert (agreement.pairs, agreement.differing_pixels, agreement.fallback_pairs) == (6, 0, 0)
    assert segmenter.counters.pairs == 6
    for image, answer in zip(images, together, strict=True):
        (alone,) = segmenter.segment([image], PROMPTS[:1])
        np.testing.assert_allclose(alone.logits_PHW[0], answer.logits_PHW[0], rtol=0, atol=2e-3)
        np.testing.assert_allclose(alone.embedding_D, answer.embedding_D, rtol=1e-5, atol=1e-6)
    assert len({answer.logits_PHW.tobytes() for answer in together}) == 2


@pytest.mark.parametrize(("memory_gib", "most"), [(0, 10), (24, 10), (40, 20), (140, 20)])
def test_batches_are_as_large_as_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_gib: int, most: int
) -> None:
    """By what it has, not what is free; and prompts are laid out once, which waits for the device."""
    monkeypatch.setattr(shared_module, "_memory_bytes", lambda device: memory_gib << 30)
    segmenter = opened(tmp_path)
    shared = segmenter._shared
    assert shared is not None
    hand_over, pack = Mock(side_effect=shared._hand_over), Mock(side_effect=language.pack)
    monkeypatch.setattr(shared, "_hand_over", hand_over)
    monkeypatch.setattr(language, "pack", pack)
    pictures = [np.full((32, 32, 3), i, np.uint8) for i in range(21)]
    for _ in range(2):
        segmenter.segment(pictures, PROMPTS[:1])
    sizes = [len(call.args[0]) for call in hand_over.call_args_list]
    assert sizes == 2 * [*[most] * (21 // most), 1]
    assert pack.call_count == 1


def test_calls_that_are_begun_one_after_the_other_answer_alike(
    tmp_path: Path, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in whatever order they are waited for; and one that fails leaves nothing behind."""
    segmenter = opened(tmp_path)
    shared = segmenter._shared
    assert shared is not None
    monkeypatch.setattr(shared, "_images_per_batch", lambda prepared: 1)
    wanted = [segmenter.segment(some, PROMPTS) for some in (images[1:], images, images[:1])]
    first, second = (segmenter.begin(some, PROMPTS) for some in (images, images[:1]))
    hand_over = shared._hand_over
    handed = Mock(side_effect=[hand_over, RuntimeError("too large")])
    with monkeypatch.context() as patched:
        patched.setattr(shared, "_hand_over", lambda *what: handed()(*what))
        with pytest.raises(RuntimeError, match="too large"):
            segmenter.begin(images, PROMPTS)
    assert shared._latest is None
    third = segmenter.begin(images[1:], PROMPTS)
    assert first is not None
    assert second is not None
    assert third is not None
    found = [third(), first(), second()]
    for answers, others in zip(found, wanted, strict=True):
        for one, other in zip(answers, others, strict=True):
            np.testing.assert_array_equal(one.logits_PHW, other.logits_PHW)
            np.testing.assert_array_equal(one.embedding_D, other.embedding_D)
    assert shared._latest is None


def test_a_batch_that_fails_is_told_to_whoever_asked_for_it(
    tmp_path: Path, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to who comes next; and it holds nothing of the device any more."""
    segmenter = opened(tmp_path)
    shared = segmenter._shared
    assert shared is not None
    (wanted,) = segmenter.segment(images[1:], PROMPTS)
    with monkeypatch.context() as patched:
        patched.setattr(shared, "_finish", Mock(side_effect=RuntimeError("too large")))
        broken, other = (segmenter.begin(images[:1], PROMPTS) for _ in range(2))
        assert broken is not None
        assert other is not None
        with pytest.raises(RuntimeError, match="too large"):
            other()
    assert shared._latest is None
    (found,) = segmenter.segment(images[1:], PROMPTS)
    np.testing.assert_array_equal(found.logits_PHW, wanted.logits_PHW)
    with pytest.raises(RuntimeError, match="too large"):
        broken()


def test_the_no_op_is_the_mask_that_predict_forward_gives(
    tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    """Enlarged by way of SAM 2's input size as its own code does, but for what rounding to float16 moves."""
    segmenter = opened(tmp_path)
    space = ActionSpace(PROMPTS[:1], (PostProcess(),), by_way_of=(64, 64))
    at_once = replace(space, by_way_of=None)
    moved, moved_at_once = 0, 0
    for image in images:
        size = (image.shape[0], image.shape[1])
        (answer,) = segmenter.segment([image], PROMPTS[:1])
        said = segmenter._reference.predict(Image.fromarray(image), f"<image>\n{PROMPTS[0]}")
        today_HW = said.masks_SHW[0].numpy()
        assert today_HW.any()
        moved += int((apply(space, 0, answer.logits_PHW, size) != today_HW).sum())
        moved_at_once += int((apply(at_once, 0, answer.logits_PHW, size) != today_HW).sum())
    found = segmenter.verify_pairs(images, PROMPTS[:1], 2, seed=0)
    assert moved == found.rounding_pixels
    assert moved_at_once > moved


def test_what_rounding_changes_is_counted_apart(tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    """The paths are compared in full precision; pixels that float16 moves are a figure of their own."""
    segmenter = opened(tmp_path)
    checkpoint, asked = segmenter._checkpoint, [f"<image>\n{PROMPTS[0]}"]
    exact = Shared(checkpoint, segmenter._options, Counters(), rounded=False)
    moved = 0
    for image in images:
        (precise,) = exact.segment([image], asked)[0].logits_PHW
        (given,) = segmenter.segment([image], PROMPTS[:1])[0].logits_PHW
        assert precise.dtype == np.float32
        np.testing.assert_array_equal(given, precise.astype(np.float16))
        here, there = (enlarged(one, 64, image.shape[:2]) > 0 for one in (precise, given))
        moved += int((here != there).sum())
    found = segmenter.verify_pairs(images, PROMPTS[:1], 2, seed=0)
    assert (found.rounding_pixels, found.differing_pixels) == (moved, 0)


def test_a_reply_without_a_mask_is_background_and_counted(
    tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    """The forced reply would not be the model's own: it is asked, and answers without [SEG]."""
    segmenter = opened(tmp_path, NONE)
    (answer,) = segmenter.segment(images[:1], PROMPTS[:2])
    assert (answer.logits_PHW < 0).all()
    assert np.isfinite(answer.logits_PHW).all()
    assert (segmenter.counters.fallback_pairs, segmenter.counters.replies_without_seg) == (2, 2)


def test_of_several_masks_the_first_counts(tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    """A model that repeats [SEG] until it is stopped gives one surface a prompt, by both paths."""
    segmenter = opened(tmp_path, LOOP)
    (answer,) = segmenter.segment(images[:1], PROMPTS[:1])
    assert answer.logits_PHW.shape[0] == 1
    assert segmenter.verify_pairs(images[:1], PROMPTS[:1], 1, seed=0).differing_pixels == 0


def test_special_tokens_in_a_prompt_are_refused(tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    """A literal [SEG] would make masks of its own."""
    with pytest.raises(SpecError, match=r"\[SEG\]"):
        opened(tmp_path).segment(images[:1], ["the vessels [SEG]"])


@pytest.mark.parametrize("trust", [None, "sha256:" + "0" * 64])
def test_code_that_nobody_vouches_for_is_not_run(tmp_path: Path, trust: str | None) -> None:
    """Neither without a digest nor with another one; the message has the one that would do."""
    made = make(tmp_path / "checkpoint")
    (made / "templates.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(IntegrityError, match="code") as caught:
        Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust))
    assert trust_digest(made) in f"{caught.value} {caught.value.advice}"
    assert not (tmp_path / "ran").exists()


def test_half_precision_is_for_a_gpu(tmp_path: Path) -> None:
    """PyTorch has no autocast of that dtype on a CPU for all that SAM 2 does."""
    made = make(tmp_path / "checkpoint")
    with pytest.raises(SpecError, match="float16 is for a GPU"):
        Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust_digest(made), dtype="float16"))


@pytest.mark.parametrize("content", [None, "no JSON", "{}"])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    """It is no defect of the program."""
    made = make(tmp_path / "checkpoint")
    (made / "tokenizer.json").unlink()
    if content is not None:
        (made / "tokenizer.json").write_text(content)
    with pytest.raises(JobError, match="tokenizer"):
        Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust_digest(made)))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("config.a_field_of_another_version", "AttributeError.*a_field_of"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_what_the_code_raises_is_the_checkpoints(tmp_path: Path, line: str, told: str) -> None:
    """With its own words."""
    made = make(tmp_path / "checkpoint")
    code = made / "modeling_sa2va_chat.py"
    head = "    def __init__(self, config: Sa2VAChatConfig, use_flash_attn: bool = True) -> None:\n"
    assert head in code.read_text()
    code.write_text(code.read_text().replace(head, head + f"        {line}\n"))
    with pytest.raises(InputError, match=f"failed to make the model: {told}"):
        Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust_digest(made)))


def test_what_the_code_prints_stays_off_the_standard_output(
    tmp_path: Path, images: list[NDArray[np.uint8]], capfd: pytest.CaptureFixture[str]
) -> None:
    """The standard output belongs to the job's own log."""
    made = make(tmp_path / "checkpoint")
    code = made / "modeling_sa2va_chat.py"
    head = "    def extract_feature(self, pixel_values: Tensor) -> Tensor:\n"
    said = "import builtins, sys; builtins.print('hello of the model'); sys.stdout.write('hello')"
    assert head in code.read_text()
    told = code.read_text().replace(head, f"{head}        {said}\n")
    code.write_text(f"{told}\nprint('hello from the checkpoint')\n")
    segmenter = Sa2vaSegmenter.load(made, "cpu", options(trust_code=trust_digest(made)))
    segmenter.segment(images[:1], PROMPTS[:1])
    segmenter.verify_pairs(images[:1], PROMPTS[:1], 1, seed=0)
    assert "hello" not in capfd.readouterr().out
