"""What segmenters tell besides masks reaches who asks, through every guard."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import segmenters
from job.logs import Output
from job.segmenters import telling
from job.segmenters.remote_code import trust_digest
from job.segmenters.sa2va import reference
from job.spec.segmenter import Sa2vaSpec
from tests.segmenters.fakes import FakeSegmenter, cache_of, photographs
from tests.segmenters.sa2va.stand_in import NONE, SURE, make


def load(folder: Path, reply: Any = SURE) -> segmenters.Segmenter:
    made = make(folder / "model", reply)
    spec = Sa2vaSpec(kind="sa2va", uri="model", dtype="float32", trust_code=trust_digest(made))
    return segmenters.load(spec, made, "cpu", Output(stream=io.StringIO()).log)


def test_a_plain_segmenter_has_nothing_to_tell() -> None:
    """And is asked no question that it does not know."""
    fake = FakeSegmenter()
    assert telling.counts(fake) == {}
    assert telling.compare(fake, photographs(1), ["a"], 1, seed=0) is None


def test_odd_replies_are_counted_through_the_guards(tmp_path: Path) -> None:
    """Of the job's own segmenter, as it is loaded."""
    segmenter = load(tmp_path, NONE)
    segmenter.segment(photographs(1, size=(40, 40)), ["fine", "major"])
    assert telling.counts(segmenter) == {
        "fallback_pairs": 2, "replies_without_seg": 2, "replies_with_several_seg": 0
    }  # fmt: skip


def test_the_agreement_of_both_paths_is_told_through_the_guards(tmp_path: Path) -> None:
    """Equal masks in float32, and the counters do not move."""
    segmenter = load(tmp_path)
    told = telling.compare(segmenter, photographs(2, size=(40, 40)), ["fine", "major"], 3, seed=0)
    assert told is not None
    assert (told["pairs"], told["mean_iou"], told["differing_pixels"]) == (3, 1.0, 0)
    assert not any(telling.counts(segmenter).values())


def test_where_the_reference_needs_cuda_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path runs on a CPU, the checkpoint's own call may not."""
    segmenter = load(tmp_path)

    def wants_cuda(self: object, *_: object) -> object:
        raise reference.NeedsCuda("CUDA alone")

    monkeypatch.setattr(reference.Reference, "predict", wants_cuda)
    assert telling.compare(segmenter, photographs(1, size=(40, 40)), ["fine"], 1, seed=0) is None


def test_a_cache_counts_what_it_had_computed_and_what_was_odd(tmp_path: Path) -> None:
    """Without a segmenter opened there is nothing odd."""
    cache, _ = cache_of(tmp_path, ["a", "b"])
    assert cache.counts() == {"computed": 0, "cached": 0}
    cache.get(photographs(2))
    assert cache.counts() == {"computed": 4, "cached": 0}
    assert np.array_equal(cache.get(photographs(1))[0].logits_PHW.shape, (2, 6, 8))
    assert cache.counts() == {"computed": 4, "cached": 2}
