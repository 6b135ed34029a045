"""A segmenter that can be stopped in the middle of a call: on a CPU, one of a large image takes minutes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from job.segmenters.protocol import Segmentation, Segmenter


@dataclass(frozen=True)
class StoppableSegmenter:
    """Has `look` called before every layer of whatever network the segmenter runs; it may raise."""

    segmenter: Segmenter
    look: Callable[[], None]

    @property
    def key(self) -> str:
        """The segmenter's."""
        return self.segmenter.key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Return what the segmenter says; raises what `look` raises as well."""
        with _before_each_layer(self.look):
            return self.segmenter.segment(images, prompts)


@contextmanager
def _before_each_layer(look: Callable[[], None]) -> Iterator[None]:
    # torch has no hook for the layers of one network that would reach those of its parts as well. This one is
    # of all networks, so it stays no longer than the call.
    handle = register_module_forward_pre_hook(lambda module, inputs: look())
    try:
        yield
    finally:
        handle.remove()
