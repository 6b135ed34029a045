"""An accelerator that is too small, or that computes what is no number: asked in parts, or refused."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from job import segmenters
from job.errors import DeviceError, IntegrityError
from job.segmenters import promptable_unet
from job.segmenters.cache import SegmentationCache
from job.segmenters.checked import CheckedSegmenter
from job.segmenters.protocol import Finish, Segmentation, Segmenter
from job.spec.segmenter import PromptableUNetSpec
from tests.segmenters.fakes import FakeSegmenter, PipelinedSegmenter, photographs

EMBEDDED = Path(promptable_unet.__file__).parent / "checkpoint"
PROMPTS = ("a", "bb", "ccc")


class SmallAccelerator(FakeSegmenter):
    """The fake on a device whose memory holds so many (image, prompt) pairs at once."""

    def __init__(self, pairs: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self._pairs, self._error = pairs, error

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        answers = super().segment(images, prompts)
        if len(images) * len(prompts) > self._pairs:
            words = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            raise self._error("CUDA out of memory." if self._error is torch.OutOfMemoryError else words)
        return answers

    @property
    def sizes(self) -> list[int]:
        """Pairs of each call."""
        return [n_images * len(prompts) for n_images, prompts in self.calls]


class BrokenSegmenter(FakeSegmenter):
    """The fake with something that is no number in some answers."""

    def __init__(self, *, prompt: str | None, value: float = np.nan, every: int = 2) -> None:
        super().__init__()
        self._prompt, self._value, self._every = prompt, value, every

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        answers = super().segment(images, prompts)
        for answer in answers[:: self._every]:
            if self._prompt is None:
                answer.embedding_D[0] = self._value
            else:
                answer.logits_PHW[list(prompts).index(self._prompt), 1, 2] = self._value
        return answers


def checked(segmenter: FakeSegmenter) -> tuple[CheckedSegmenter, list[str]]:
    """Return the guarded segmenter and what it warns of."""
    warnings: list[str] = []
    return CheckedSegmenter(segmenter, warn=warnings.append), warnings


def assert_equal(found: Sequence[Segmentation], wanted: Sequence[Segmentation]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.logits_PHW, other.logits_PHW)
        np.testing.assert_array_equal(one.embedding_D, other.embedding_D)


@settings(max_examples=60, deadline=None)
@given(n_images=st.integers(0, 9), n_prompts=st.integers(1, 5), pairs=st.integers(1, 50))
def test_whatever_fits_the_answers_are_those_of_a_large_accelerator(
    n_images: int, n_prompts: int, pairs: int
) -> None:
    """In order, for every number of images, prompts and pairs that fit, down to one image with one prompt."""
    images, prompts = photographs(n_images), [f"prompt {i}" for i in range(n_prompts)]
    small = SmallAccelerator(pairs)
    answers = checked(small)[0].segment(images, prompts)
    assert_equal(answers, FakeSegmenter().segment(images, prompts))
    assert sum(size for size in small.sizes if size <= pairs) == n_images * n_prompts


class SmallReal:
    """The real network, on a device whose memory holds so many pairs at once."""

    def __init__(self, pairs: int | None = None) -> None:
        self.key = "0" * 64
        self._network = promptable_unet_segmenter()
        self._pairs = pairs

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        if self._pairs is not None and len(images) * len(prompts) > self._pairs:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._network.segment(images, prompts)


def promptable_unet_segmenter() -> Segmenter:
    log = SimpleNamespace(info=lambda event, **facts: None, warning=lambda event, **facts: None)
    return segmenters.load(PromptableUNetSpec(), EMBEDDED, "cpu", log)  # type: ignore[arg-type]


@pytest.mark.parametrize("pairs", [1, 5])
def test_a_real_network_answers_alike_in_parts(pairs: int) -> None:
    """Probabilities differ by less than 1e-3, whether images or the prompts of an image are parted."""
    images = photographs(4, size=(32, 32))
    parts = CheckedSegmenter(SmallReal(pairs), warn=lambda message: None).segment(images, PROMPTS)
    for one, other in zip(parts, SmallReal().segment(images, PROMPTS), strict=True):
        close = {"rtol": 0.0, "atol": 1e-3}
        np.testing.assert_allclose(expit(one.logits_PHW), expit(other.logits_PHW), **close)
        np.testing.assert_allclose(one.embedding_D, other.embedding_D, **close)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_the_size_that_fitted_is_told_once_and_kept(error: type[RuntimeError]) -> None:
    """12 and 6 pairs fail once; from then on calls have 3, as large as fits; cuBLAS's failure counts too."""
    small = SmallAccelerator(5, error)
    segmenter, warnings = checked(small)
    images = photographs(4)
    segmenter.segment(images, PROMPTS)
    assert small.sizes == [12, 6, 3, 3, 3, 3]
    small.calls.clear()
    for _ in range(3):
        segmenter.segment(images, PROMPTS)
    assert small.sizes == [3] * 12
    (warning,) = warnings
    assert "4 images x 3 prompts" in warning
    assert "at most 3 pairs" in warning


def test_an_image_that_does_not_fit_alone_is_an_error_of_the_device() -> None:
    """Exit code 11, with the size of the image and what to change; no tensor is kept alive by a cause."""
    with pytest.raises(DeviceError, match="one image of 16 x 12 pixels with one prompt") as caught:
        checked(SmallAccelerator(0))[0].segment(photographs(2), PROMPTS)
    assert caught.value.exit_code == 11
    assert "data.width" in caught.value.advice
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_another_failure_of_the_device_is_not_tried_again() -> None:
    """A device that is broken is not asked in halves."""

    class Broken(FakeSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            super().segment(images, prompts)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    broken = Broken()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        checked(broken)[0].segment(photographs(4), PROMPTS)
    assert len(broken.calls) == 1


def test_logits_that_are_no_numbers_are_named_and_not_kept(tmp_path: Path) -> None:
    """Exit code 4 with the number of images and the prompt; the cache stays empty, of good answers too."""
    guarded, _ = checked(BrokenSegmenter(prompt="bb"))
    cache = SegmentationCache(
        tmp_path, key=guarded.key, prompts=PROMPTS, keep=True, open_segmenter=lambda: guarded
    )
    with pytest.raises(IntegrityError, match=r"3 of 5 images .* such as those of the prompt 'bb'") as caught:
        cache.get(photographs(5))
    assert caught.value.exit_code == 4
    assert "segmenter.uri" in caught.value.advice
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_logits_and_features_are_refused_as_well(value: float) -> None:
    """Nothing later could tell them from an honest answer."""
    with pytest.raises(IntegrityError, match="logits, such as those of the prompt 'a'"):
        checked(BrokenSegmenter(prompt="a", value=value))[0].segment(photographs(1), PROMPTS)
    with pytest.raises(IntegrityError, match=r"1 of 1 images are not finite numbers \(features\)"):
        checked(BrokenSegmenter(prompt=None, value=value))[0].segment(photographs(1), PROMPTS)


def test_every_segmenter_of_a_spec_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real network whose last layer overflows on the device is caught where it is loaded for any use."""
    segmenter = promptable_unet_segmenter()
    image = photographs(1, size=(32, 32))[0]
    assert np.isfinite(segmenter.segment([image], ["vessels"])[0].logits_PHW).all()
    network = segmenter.segmenter.segmenter._network  # type: ignore[attr-defined]
    with torch.no_grad():
        next(parameter for parameter in network.parameters() if parameter.ndim == 4).mul_(np.inf)
    with pytest.raises(IntegrityError, match="not finite"):
        segmenter.segment([image], ["vessels"])


class SmallPipeline(SmallAccelerator, PipelinedSegmenter):
    """A device of its own pace that finds out that its memory is too small at the begin, or only later."""

    def __init__(self, pairs: int, *, at_once: bool) -> None:
        super().__init__(pairs)
        PipelinedSegmenter.__init__(self)
        self._pairs, self._error, self._at_once = pairs, torch.OutOfMemoryError, at_once

    def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        if self._at_once and len(images) * len(prompts) > self._pairs:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().begin(images, prompts)


def test_a_call_that_fits_is_begun_and_checked() -> None:
    """Its answers are those of `segment`; one without a pipeline is to be asked later."""
    images = photographs(4)
    assert checked(FakeSegmenter())[0].begin(images, PROMPTS) is None
    pipeline = SmallPipeline(12, at_once=True)
    finish = checked(pipeline)[0].begin(images, PROMPTS)
    assert finish is not None
    assert not pipeline.calls
    assert_equal(finish(), PipelinedSegmenter().segment(images, PROMPTS))


def test_a_call_that_does_not_fit_beside_another_is_not_begun() -> None:
    """Alone it may fit: nothing is parted, nor kept in mind, before it was tried so."""
    segmenter, warnings = checked(SmallPipeline(11, at_once=True))
    assert segmenter.begin(photographs(4), PROMPTS) is None
    assert segmenter.begin(photographs(3), PROMPTS) is not None
    assert not warnings
    segmenter.segment(photographs(4), PROMPTS)
    assert len(warnings) == 1
    assert segmenter.begin(photographs(3), PROMPTS) is None  # 9 pairs; 6 fitted


def test_a_call_that_turns_out_not_to_fit_is_parted() -> None:
    """When its answers are waited for, with a warning."""
    images = photographs(4)
    segmenter, warnings = checked(SmallPipeline(6, at_once=False))
    finish = segmenter.begin(images, PROMPTS)
    assert finish is not None
    assert [answer.logits_PHW.shape[0] for answer in finish()] == [3] * 4
    assert len(warnings) == 1


def test_what_was_begun_is_finite_too() -> None:
    """Else it is refused as what was asked for at once."""

    class Broken(PipelinedSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            return BrokenSegmenter(prompt=PROMPTS[1]).segment(images, prompts)

    finish = checked(Broken())[0].begin(photographs(2), PROMPTS)
    assert finish is not None
    with pytest.raises(IntegrityError, match="not finite"):
        finish()
