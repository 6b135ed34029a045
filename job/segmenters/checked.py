"""A segmenter behind two guards: what does not fit the accelerator is asked in parts, and answers are finite.

Halves give the same logits but for rounding: an answer does not depend on what else is in the call.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from job.errors import DeviceError, IntegrityError
from job.segmenters.protocol import Finish, Pipelined, Segmentation, Segmenter

T = TypeVar("T")

_ALLOCATION_FAILED = "ALLOC_FAILED"
"""Of cuBLAS and cuDNN, which take memory past torch's allocator and have no type of error for it."""
_EXPONENT = np.uint16(0x7C00)
"""Of a float16 that is no finite number; numpy's own test computes float16 one by one, ten times slower."""


class CheckedSegmenter:
    """Asks a segmenter, in halves where the accelerator's memory does not hold the whole call.

    The size that fitted is kept for all calls to come; `warn` is told of it.
    """

    def __init__(self, segmenter: Segmenter, *, warn: Callable[[str], None]) -> None:
        self.segmenter = segmenter
        self._warn = warn
        self._most_pairs: float = math.inf
        """(image, prompt) pairs of the largest call that is tried."""

    @property
    def key(self) -> str:
        """The segmenter's own."""
        return self.segmenter.key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Segment as the segmenter does.

        Raises `DeviceError` when one image with one prompt does not fit the accelerator, and `IntegrityError`
        when an answer holds a number that is not finite: nothing that follows would be worth anything.
        """
        before = self._most_pairs
        answers = self._fitting(images, prompts)
        if self._most_pairs < before:
            self._warn(
                f"the accelerator's memory did not hold {len(images)} images x {len(prompts)} prompts: from"
                f" now on at most {self._most_pairs:.0f} pairs are computed at once, and results may differ"
                " from a larger accelerator's by rounding (lower segmenter.batch_size to choose it yourself)"
            )
        _require_finite(answers, prompts)
        return answers

    def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        """Begin what `segment` does, where the segmenter can and the accelerator's memory holds it meanwhile.

        What is returned raises what `segment` raises.
        """
        segmenter = self.segmenter
        if not isinstance(segmenter, Pipelined) or len(images) * len(prompts) > self._most_pairs:
            return None
        finish = _if_it_fits(lambda: segmenter.begin(images, prompts))
        if finish is None:
            return None

        def finish_checked() -> list[Segmentation]:
            answers = _if_it_fits(finish)
            if answers is None:
                return self.segment(images, prompts)
            _require_finite(answers, prompts)
            return answers

        return finish_checked

    def _fitting(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        n_pairs = len(images) * len(prompts)
        if n_pairs <= self._most_pairs:
            answers = _if_it_fits(lambda: self.segmenter.segment(images, prompts))
            if answers is not None:
                return answers
            if n_pairs == 1:
                raise _too_large(images[0])
            self._most_pairs = max(1, n_pairs // 2)
        return self._in_halves(images, prompts)

    def _in_halves(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        if len(images) > 1:
            half = len(images) // 2
            return [*self._fitting(images[:half], prompts), *self._fitting(images[half:], prompts)]
        half = len(prompts) // 2
        (one,), (other,) = (self._fitting(images, some) for some in (prompts[:half], prompts[half:]))
        return [Segmentation(np.concatenate([one.logits_PHW, other.logits_PHW]), one.embedding_D)]


def _if_it_fits(ask: Callable[[], T]) -> T | None:
    """Return what is asked for; None, and the accelerator's memory freed, where that does not hold it."""
    try:
        return ask()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Out of the handler: the error's traceback holds every tensor of the call.
    torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an accelerator's memory was too small for what was asked of it."""
    return isinstance(error, torch.OutOfMemoryError) or _ALLOCATION_FAILED in str(error)


def _too_large(image: NDArray[np.uint8]) -> DeviceError:
    height, width = image.shape[:2]
    return DeviceError(
        f"the accelerator's memory does not hold one image of {width} x {height} pixels with one prompt",
        advice="set data.width to a smaller number of pixels, take an accelerator with more memory, or set"
        ' runtime.device to "cpu"',
    )


def _require_finite(answers: Sequence[Segmentation], prompts: Sequence[str]) -> None:
    broken, what = [], "features"
    for i, answer in enumerate(answers):
        finite_P = (answer.logits_PHW.view(np.uint16) & _EXPONENT != _EXPONENT).all(axis=(1, 2))
        if not finite_P.all():
            what = f"logits, such as those of the prompt {prompts[int(finite_P.argmin())]!r}"
        if not (finite_P.all() and np.isfinite(answer.embedding_D).all()):
            broken.append(i)
    if not broken:
        return
    raise IntegrityError(
        f"the segmenter's answers to {len(broken)} of {len(answers)} images are not finite numbers ({what})",
        advice="the checkpoint at segmenter.uri is damaged, or its numbers overflow: fetch an undamaged copy,"
        " or name an earlier one",
    )
