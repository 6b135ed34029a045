"""Writes probabilities for the images of a dataset folder, as another program would."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, minimum_filter
from scipy.special import expit

from job.data.dataset import read_folder
from job.data.images import read_image
from job.segmenters.precomputed.layout import slug


def compute(data: Path, out: Path, prompts: Sequence[str]) -> Path:
    """Write probabilities of every image of a dataset folder."""
    return compute_each(((one.name, read_image(one.image)) for one in read_folder(data)), out, prompts)


def compute_each(images: Iterable[tuple[str, NDArray[np.uint8]]], out: Path, prompts: Sequence[str]) -> Path:
    """Call what is darker than its surroundings a vessel; arrays for one prompt, pictures for the next."""
    for name, image in images:
        green = image[..., 1].astype(np.float32) / 255
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(prompts):
            # Darker than its surroundings, inside of the bright field: what a vessel is.
            darker = gaussian_filter(green, 5.0) - gaussian_filter(green, 0.5 + 0.5 * number)
            vessel = expit(200 * (darker - 0.02)) * (minimum_filter(green, 5) > 0.05)
            if number % 2:
                Image.fromarray((vessel * 65535).astype(np.uint16)).save(folder / f"{slug(prompt)}.png")
            else:
                np.savez_compressed(folder / f"{slug(prompt)}.npz", probabilities=vessel.astype(np.float16))
    return out
