"""The names of a run's images by their pixels, for a segmenter that goes by names."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from job.data.image_names import ImageNames, index
from job.progress import track
from job.stages import pull
from job.stages.stage import StageContext


def image_names(context: StageContext, width: int | None) -> ImageNames:
    """Return names of all images of a run at a width in pixels; they are read at the first question."""
    return ImageNames(lambda: index(_images(context, width)))


def _images(context: StageContext, width: int | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    datasets = [
        pull.open_dataset(context), *(pull.open_other(context, name) for name in context.inputs.others)
    ]  # fmt: skip
    sized = [replace(dataset, width=width) for dataset in datasets]
    all_images = [(dataset, replace(sample, mask=None)) for dataset in sized for sample in dataset.samples]
    for dataset, sample in track(context.progress, "naming images", all_images, len(all_images), "images"):
        yield sample.name, dataset.load(sample).image
