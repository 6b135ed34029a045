"""A candidate at work asks its segmenter for batches, and gives each image its own answer, in order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import table_making
from job.candidate_at_work import CandidateAtWork, Photograph
from job.data.dataset import Loaded, Sample
from job.data.images import pixel_digest
from job.errors import InputError, Interrupted
from job.evaluation.candidate import Candidate, CandidateFile, Prediction
from job.progress import SILENT
from job.spec.segmenter import PromptableUNetSpec
from tests.segmenters.fakes import FakeSegmenter, SociableSegmenter, photographs, segmentation_of

IMAGES = photographs(7)
SAMPLES = [Sample(str(i), str(i), None, Path(f"{i}.png"), None, None) for i in range(7)]


def at_work(batch_size: int = 3, threads: int = 2) -> tuple[CandidateAtWork, FakeSegmenter]:
    """Return a candidate that takes the fixed action 1, and its segmenter."""
    file = CandidateFile(
        name="fixed", verdict="improved", segmenter=PromptableUNetSpec(batch_size=batch_size),
        segmenter_key="0" * 64, width=None, prompts=["vessels", "major"], postprocess=[{"threshold": 0.5}],
        chooser="fixed", action=1, interval_halfwidth=0.1, confidence=0.9, review_below=0.5, trained_on=[],
    )  # fmt: skip
    segmenter = FakeSegmenter()
    judge = Candidate(file, lambda _, masks_BHW: np.full(len(masks_BHW), 0.8))
    return CandidateAtWork(judge, segmenter, {}, threads), segmenter


def read(sample: Sample) -> Photograph | InputError:
    if sample.name == "4":
        return InputError("4.png cannot be decoded")
    image = IMAGES[int(sample.name)]
    return Photograph(sample, Loaded(image, None, None), image.shape[:2])


def named(one: Photograph, prediction: Prediction) -> tuple[str, Prediction]:
    return one.sample.name, prediction


def each(work: CandidateAtWork, **changes: Any) -> list[tuple[str, Prediction] | InputError]:
    how = {"read": read, "finish": named, "what": "predict", "progress": SILENT, **changes}
    return list(work.each(SAMPLES, **how))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("batch_size", "asked"), [(1, [1] * 6), (3, [3, 2, 1]), (100, [6])])
def test_the_segmenter_is_asked_for_batches(threads: int, batch_size: int, asked: list[int]) -> None:
    """Of the size that the job used; one that cannot be read is in none, and costs no other its place."""
    work, segmenter = at_work(batch_size, threads)
    found = each(work)
    assert [n for n, _ in segmenter.calls] == asked
    assert [one if isinstance(one, InputError) else one[0] for one in found] == [*"0123", found[4], *"56"]
    assert isinstance(found[4], InputError)
    for one in found:
        if not isinstance(one, InputError):
            image = IMAGES[int(one[0])]
            alone = work.candidate.predict(image, segmentation_of(image, work.candidate.file.prompts))
            np.testing.assert_array_equal(one[1].mask_HW, alone.mask_HW)


def test_names_are_known_before_the_segmenter_is_asked() -> None:
    """Probabilities in files go by them."""
    work, segmenter = at_work()
    known: list[set[str]] = []
    ask = segmenter.segment

    def asked(images: Any, prompts: Any) -> Any:
        known.append(set(work.names.values()))
        assert {work.names[pixel_digest(image)] for image in images} <= known[-1]
        return ask(images, prompts)

    segmenter.segment = asked  # type: ignore[method-assign]
    each(work)
    assert known == [set("012"), set("01235"), set("012356")]


def test_large_images_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the table: their logits would not fit into memory together."""
    monkeypatch.setattr(table_making, "PIXELS_OF_A_BATCH", 2 * IMAGES[0].shape[0] * IMAGES[0].shape[1])
    work, segmenter = at_work(100)
    each(work)
    assert {n for n, _ in segmenter.calls} <= {1, 2}


def test_what_a_thread_raises_ends_the_work() -> None:
    """Also what `finish` cannot do; no thread goes on behind it."""

    def full(one: Photograph, prediction: Prediction) -> None:
        raise Interrupted("stop")

    work, _ = at_work(1)
    with pytest.raises(Interrupted):
        each(work, finish=full)
    with pytest.raises(ValueError, match="no picture"):
        each(work, read=lambda sample: (_ for _ in ()).throw(ValueError("no picture")))


def test_a_field_of_view_reaches_the_chooser(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was when the chooser was fitted."""
    work, _ = at_work()
    seen = []
    predict = Candidate.predict
    monkeypatch.setattr(Candidate, "predict", lambda *a: seen.append(a[3]) or predict(*a))
    fov = np.ones(IMAGES[0].shape[:2], np.bool_)

    def with_fov(sample: Sample) -> Photograph | InputError:
        one = read(sample)
        return replace(one, loaded=replace(one.loaded, fov=fov)) if isinstance(one, Photograph) else one

    each(work, read=with_fov)
    assert len(seen) == 6
    assert all(one is fov for one in seen)


def test_the_no_op_is_that_of_the_weights_before_training() -> None:
    """Of a candidate whose segmenter was trained, "before" is what the user has, not the trained network."""
    trained, segmenter = at_work()
    today = SociableSegmenter()
    plain, beside = each(trained), each(replace(trained, today=today))
    differing = 0
    for one, other in zip(plain, beside, strict=True):
        if not isinstance(one, InputError) and not isinstance(other, InputError):
            np.testing.assert_array_equal(other[1].mask_HW, one[1].mask_HW)
            differing += bool((other[1].noop_HW != one[1].noop_HW).any())
    assert differing
    assert [n for n, _ in today.calls] == [3, 2, 1]
    assert {prompts for _, prompts in today.calls} == {("vessels",)}
    assert {prompts for _, prompts in segmenter.calls} == {("vessels", "major")}
