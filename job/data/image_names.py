"""The names of images that are known by their pixels alone, as they come to a segmenter."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from job.data.images import pixel_digest
from job.errors import InputError


class ImageNames:
    """Tells the name of an image, from an index that is made at the first question: it takes every image.

    `find` gives names by pixel digest; what is added to them later counts as well.
    """

    def __init__(self, find: Callable[[], Mapping[str, str]]) -> None:
        self._find = find
        self._names: Mapping[str, str] | None = None

    def known(self) -> set[str]:
        """Return all names in the index."""
        if self._names is None:
            self._names = self._find()
        return set(self._names.values())

    def __call__(self, image: NDArray[np.uint8]) -> str:
        """Return the name of an image `[H, W, 3]`; raises `InputError` for one that is not in the index."""
        if self._names is None:
            self._names = self._find()
        name = self._names.get(pixel_digest(image))
        if name is None:
            raise InputError(
                "an image is none of the data's, so that nothing was computed for it beforehand",
                advice="use a segmenter that computes, or images as they are in the data",
            )
        return name


NAMELESS = ImageNames(dict)
"""Knows no image."""


def index(named: Iterable[tuple[str, NDArray[np.uint8]]]) -> dict[str, str]:
    """Return names by pixel digest, the first name of equal pixels.

    Raises `InputError` when two different pictures have one name: nobody could tell whose mask is meant.
    """
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    for name, image in named:
        digest = pixel_digest(image)
        if digests.setdefault(name, digest) != digest:
            raise InputError(
                f"two different images are called {name!r}: nobody can tell for which one probabilities are",
                advice="give the images of all datasets of the spec names of their own",
            )
        names.setdefault(digest, name)
    return names
