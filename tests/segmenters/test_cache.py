"""Segmentations kept on disk."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from job.data.images import pixel_digest
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation, Segmenter
from job.storage.mirror import NoMirror
from tests.segmenters.fakes import (
    FakeSegmenter,
    PipelinedSegmenter,
    SociableSegmenter,
    cache_of,
    photographs,
    segmentation_of,
)

PROMPTS = ("vessels", "thin vessels")


def assert_right(answers: list[Segmentation], images: list[np.ndarray], prompts: tuple[str, ...]) -> None:
    for answer, image in zip(answers, images, strict=True):
        wanted = segmentation_of(image, prompts)
        assert answer.logits_PHW.dtype == np.float16
        np.testing.assert_array_equal(answer.logits_PHW, wanted.logits_PHW)
        np.testing.assert_array_equal(answer.embedding_D, wanted.embedding_D)


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    """Neither in this process nor in the next one, and whatever the order of images and prompts."""
    images = photographs(3)
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert_right(cache.get(images[:2]), images[:2], PROMPTS)
    assert_right(cache.get(images), images, PROMPTS)
    assert segmenter.calls == [(2, PROMPTS), (1, PROMPTS)]
    assert (cache.computed, cache.cached) == (6, 4)

    def never() -> Segmenter:
        raise AssertionError("a run that finds everything loads no model")

    turned = PROMPTS[::-1]
    again = SegmentationCache(
        tmp_path, key=FakeSegmenter.key, prompts=turned, keep=True, open_segmenter=never
    )
    assert_right(again.get(images[::-1]), images[::-1], turned)
    assert (again.computed, again.cached) == (0, 6)


def test_answers_lie_in_memory_as_kept_ones_do(tmp_path: Path) -> None:
    """Sums over logits depend on it, and rows on those: tonight's would differ from tomorrow's."""
    image = photographs(1)
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert not segmenter.segment(image, PROMPTS)[0].logits_PHW.flags.c_contiguous
    again, _ = cache_of(tmp_path, PROMPTS)
    for one in (*cache.get(image), *again.get(image)):
        assert one.logits_PHW.flags.c_contiguous
        assert (one.logits_PHW.dtype, one.embedding_D.dtype) == (np.float16, np.float32)


def test_equal_pixels_are_one_image(tmp_path: Path) -> None:
    """Two names for the same picture, in one call: asked for once, answered twice."""
    first, second = photographs(2)
    images = [first, second, first.copy()]
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert_right(cache.get(images), images, PROMPTS)
    assert segmenter.calls == [(2, PROMPTS)]
    assert (cache.computed, cache.cached) == (4, 2)


def test_a_new_prompt_asks_for_the_new_one_alone(tmp_path: Path) -> None:
    """The pairs that are known count as cached."""
    images = photographs(2)
    cache_of(tmp_path, PROMPTS)[0].get(images)
    more = ("new prompt", *PROMPTS)
    cache, segmenter = cache_of(tmp_path, more)
    assert_right(cache.get(images), images, more)
    assert segmenter.calls == [(2, ("new prompt",))]
    assert (cache.computed, cache.cached) == (2, 4)


def test_images_that_lack_different_prompts_are_asked_for_the_union(tmp_path: Path) -> None:
    """A call has one list of prompts: the counts tell how many pairs were computed."""
    old, new = photographs(2)
    cache_of(tmp_path, PROMPTS[:1])[0].get([old])
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert_right(cache.get([old, new]), [old, new], PROMPTS)
    assert segmenter.calls == [(2, PROMPTS)]
    assert (cache.computed, cache.cached) == (4, 0)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 7, None])
def test_a_corrupt_file_is_computed_again_and_mended(tmp_path: Path, damage: bytes | None) -> None:
    """Empty, too short for a header, or cut in the middle; asked for in the company that it was asked in."""
    images = photographs(2)
    cache_of(tmp_path, PROMPTS)[0].get(images)
    broken = min(tmp_path.rglob("*.safetensors"))
    broken.write_bytes(broken.read_bytes()[:-20] if damage is None else damage)
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert_right(cache.get(images), images, PROMPTS)
    assert segmenter.calls == [(2, PROMPTS)]
    assert (cache.computed, cache.cached) == (4, 0)


@pytest.mark.parametrize("left", [(0,), (2,), (0, 1), (1, 3), (0, 1, 2)])
def test_of_a_batch_that_was_torn_apart_every_image_gets_the_bits_of_the_whole(
    tmp_path: Path, left: tuple[int, ...]
) -> None:
    """Killed while answers were written: whoever is left tells who was in it. New images change nothing."""
    images = photographs(4)
    cache, _ = cache_of(tmp_path / "whole", PROMPTS, kind=SociableSegmenter)
    whole = [answer.logits_PHW for answer in cache.get(images)]
    torn, segmenter = cache_of(tmp_path / "torn", PROMPTS, kind=SociableSegmenter)
    torn.get(images)
    for i in set(range(4)) - set(left):
        next((tmp_path / "torn").rglob(f"{pixel_digest(images[i])}.safetensors")).unlink()
    for answer, logits_PHW in zip(torn.get(images), whole, strict=True):
        np.testing.assert_array_equal(answer.logits_PHW, logits_PHW)
    assert segmenter.calls == [(4, PROMPTS)] * 2
    torn.get([*images, *photographs(2, seed=1)])
    assert segmenter.calls[2:] == [(2, PROMPTS)]


def test_a_call_is_begun_before_the_one_before_it_ends(tmp_path: Path) -> None:
    """Answers are those of calls one after the other; what two have in common is not computed twice."""
    images = photographs(5)
    plain, _ = cache_of(tmp_path / "plain", PROMPTS, kind=SociableSegmenter)
    wanted = [*plain.get(images[:2]), *plain.get(images[2:4]), *plain.get([images[1], images[4]])]
    cache, segmenter = cache_of(tmp_path / "ahead", PROMPTS, kind=PipelinedSegmenter)
    assert isinstance(segmenter, PipelinedSegmenter)
    written: list[Callable[[], None]] = []
    first = cache.begin(images[:2], written.append)
    second = cache.begin(images[2:4], written.append)
    assert (first.is_ahead, second.is_ahead) == (True, True)
    assert segmenter.told == [("begun", 2), ("begun", 2)]
    third = cache.begin([images[1], images[4]], written.append)
    assert segmenter.told[2:] == [("finished", 2), ("begun", 1)]
    found = [*first.answers(), *second.answers(), *third.answers()]
    assert segmenter.told[4:] == [("finished", 2), ("finished", 1)]
    for answer, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(answer.logits_PHW, other.logits_PHW)
        assert answer.company == other.company
    assert len(written) == 5
    assert (cache.computed, cache.cached) == (plain.computed, plain.cached) == (10, 2)
    assert first.answers() is first.answers()
    assert not cache.begin(images[:2], written.append).is_ahead  # there is nothing to compute


def test_a_call_that_failed_is_its_own_affair(tmp_path: Path) -> None:
    """Who asks for the same images later gets them."""
    images = photographs(2)
    cache, segmenter = cache_of(tmp_path, PROMPTS, kind=PipelinedSegmenter)
    segment = segmenter.segment
    segmenter.segment = Mock(side_effect=RuntimeError("the device"))  # type: ignore[method-assign]
    first = cache.begin(images, Mock())
    with pytest.raises(RuntimeError, match="the device"):
        first.answers()
    segmenter.segment = segment  # type: ignore[method-assign]
    wanted = SociableSegmenter().segment(images, PROMPTS)
    for answer, other in zip(cache.get(images), wanted, strict=True):
        np.testing.assert_array_equal(answer.logits_PHW, other.logits_PHW)


def test_keeping_nothing_writes_nothing_and_answers_the_same(tmp_path: Path) -> None:
    """Whoever lacks the disk pays with calls; what is on disk already is still used."""
    images = photographs(2)
    cache, segmenter = cache_of(tmp_path, PROMPTS, keep=False)
    assert_right(cache.get(images), images, PROMPTS)
    assert_right(cache.get(images), images, PROMPTS)
    assert len(segmenter.calls) == 2
    assert not list(tmp_path.iterdir())
    cache_of(tmp_path, PROMPTS)[0].get(images)
    cache.get(images)
    assert len(segmenter.calls) == 2


def test_another_segmenter_finds_nothing(tmp_path: Path) -> None:
    """The content key is part of the place: new weights never meet old logits."""
    images = photographs(1)
    cache_of(tmp_path, PROMPTS)[0].get(images)
    cache, segmenter = cache_of(tmp_path, PROMPTS, key="f" * 64)
    cache.get(images)
    assert segmenter.calls == [(1, PROMPTS)]


def test_images_of_different_sizes_share_a_call(tmp_path: Path) -> None:
    """Each answer has the size that the segmenter gave it."""
    images = photographs(1) + photographs(1, size=(20, 8))
    cache, segmenter = cache_of(tmp_path, PROMPTS)
    assert [answer.logits_PHW.shape for answer in cache.get(images)] == [(2, 6, 8), (2, 10, 4)]
    assert len(segmenter.calls) == 1


def test_an_image_and_a_prompt_that_share_bytes_are_told_apart(tmp_path: Path) -> None:
    """Shape is part of an image's identity, and case part of a prompt's."""
    image = photographs(1)[0]
    cache, _ = cache_of(tmp_path, ("Vessels", "vessels"))
    cache.get([image, image.reshape(16, 12, 3)])
    assert cache.computed == 4


def test_segmentations_come_from_the_mirror_before_the_segmenter_is_asked(tmp_path: Path) -> None:
    """Where they are kept at all; a call without images asks for nothing."""
    images, asked = photographs(1), []

    class Fetching(NoMirror):
        def restore_cache(self, group: str) -> None:
            asked.append(group)
            cache_of(tmp_path, PROMPTS)[0].get(images)

    def cached(keep: bool) -> SegmentationCache:
        return SegmentationCache(
            tmp_path, key=FakeSegmenter.key, prompts=PROMPTS, keep=keep, open_segmenter=FakeSegmenter,
            mirror=Fetching(),
        )  # fmt: skip

    forgetful, keeping = cached(keep=False), cached(keep=True)
    assert_right(forgetful.get(images), images, PROMPTS)
    assert keeping.get([]) == []
    assert asked == []
    relative = keeping.of(key=FakeSegmenter.key, prompts=PROMPTS, open_segmenter=FakeSegmenter)
    for cache in (keeping, relative):
        assert_right(cache.get(images), images, PROMPTS)
        assert (cache.computed, cache.cached) == (0, 2)
    assert asked == [f"logits/{FakeSegmenter.key[:32]}"] * 2


def test_what_is_written_later_is_not_asked_for_again(tmp_path: Path) -> None:
    """Meanwhile it is answered from memory, bit for bit and with its company; then from the disk."""
    images = photographs(3)
    cache, segmenter = cache_of(tmp_path, PROMPTS, kind=SociableSegmenter)
    writes: list[Callable[[], None]] = []
    first = cache.get(images, keep=writes.append)
    assert not list(tmp_path.rglob("*.safetensors"))
    again = cache.get(images[::-1])[::-1]
    writes.pop()()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    once_more = cache.get(images)
    while writes:
        writes.pop()()
    for found in (again, once_more, cache.get(images), cache_of(tmp_path, PROMPTS)[0].get(images)):
        for answer, wanted in zip(found, first, strict=True):
            np.testing.assert_array_equal(answer.logits_PHW, wanted.logits_PHW)
            assert answer.company == wanted.company
    assert segmenter.calls == [(3, PROMPTS)]
    assert not cache._unwritten
