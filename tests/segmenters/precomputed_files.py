"""Writes probabilities for the images of a dataset folder, as another program would."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, minimum_filter

from job.data.dataset import read_folder
from job.data.images import read_image
from job.segmenters.precomputed.layout import slug


def compute(data: Path, out: Path, prompts: Sequence[str]) -> Path:
    """Call what is darker than its surroundings a vessel; arrays for one prompt, pictures for the next."""
    for sample in read_folder(data):
        green = read_image(sample.image)[..., 1].astype(np.float32) / 255
        folder = out / sample.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(prompts):
            # Darker than its surroundings, inside of the bright field: what a vessel is.
            darker = gaussian_filter(green, 5.0) - gaussian_filter(green, 0.5 + 0.5 * number)
            vessel = 1 / (1 + np.exp(-200 * (darker - 0.02))) * (minimum_filter(green, 5) > 0.05)
            if number % 2:
                Image.fromarray((vessel * 65535).astype(np.uint16)).save(folder / f"{slug(prompt)}.png")
            else:
                np.savez_compressed(folder / f"{slug(prompt)}.npz", probabilities=vessel.astype(np.float16))
    return out
