"""Masks made to fool a judge: what it says of them against what they are worth."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from job.metrics.thinning import skeleton
from job.progress import SILENT, Progress, track
from job.reward.corruptions import disks_at, swap, unit_px
from job.reward.terms import Judge, score

ProbeKind = Literal["truth", "dilation", "erosion", "islands", "skeleton", "empty", "full", "swapped image"]
Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]

DILATIONS_PX = (1, 2, 3, 4)
EROSIONS_PX = (1, 2)
ISLANDS = (10, 50, 200)
ACTIONS_TO_SWAP = 6


@dataclass(frozen=True)
class Probe:
    """Mean predicted and true Dice of one kind of mask over `n` images.

    `amount` is a radius in pixels of an image of 128 (dilation, erosion; it grows with the image), a number
    of specks (islands), 0 otherwise. A swapped image is judged with the truth of another one.
    """

    kind: ProbeKind
    amount: float
    predicted: float
    true: float
    n: int


def probe(
    judge_of: Callable[[int], Judge],
    images: Sequence[Pixels],
    truths: Sequence[Masks],
    *,
    seed: int,
    most: int = 16,
    progress: Progress = SILENT,
) -> list[Probe]:
    """Judge masks that a policy could learn to make if the judge liked them, made of the images' truths.

    `images` are uint8 `[H, W, 3]` with truths `[H, W]`; at most `most` of them, spread over all, are used.
    `judge_of(i)` is a judge that never saw image `i`. Swapping needs a second image: without one that probe
    is missing. Raises ValueError unless every image has a truth and there is one.
    """
    if not len(images) or len(images) != len(truths):
        raise ValueError(f"need images with a truth each, got {len(images)} and {len(truths)}")
    chosen = _spread(len(images), most)
    judged: dict[tuple[ProbeKind, float], list[tuple[float, float]]] = {}
    for position, i in enumerate(track(progress, "fooling the judge", chosen, len(chosen), "images")):
        other = None if len(chosen) < 2 else truths[_another(chosen, position)]
        made = dict(_masks(truths[i], other, np.random.default_rng([seed, i])))
        scores = score(
            np.stack(list(made.values())),
            truths[i],
            ["reward_net", "dice"],
            image_HWC=images[i],
            judge=judge_of(i),
        )
        for name, predicted, true in zip(made, scores["reward_net"], scores["dice"], strict=True):
            judged.setdefault(name, []).append((float(predicted), float(true)))
    means = {name: np.mean(pairs, axis=0) for name, pairs in judged.items()}
    return [
        Probe(kind, amount, float(mean[0]), float(mean[1]), len(judged[kind, amount]))
        for (kind, amount), mean in means.items()
    ]


def swap_effect(
    judge_of: Callable[[int], Judge],
    images: Sequence[Pixels],
    masks_of: Callable[[int], Masks],
    *,
    most: int = 16,
    progress: Progress = SILENT,
) -> tuple[Scores, Scores]:
    """Score masks with their own image, and the same masks with another image: two `[M]`.

    A judge that looks at masks alone says the same twice. `masks_of(i)` are the masks `[K, H, W]` of image
    `i`'s actions, of which a few, spread over all, are judged. Raises ValueError for fewer than two images.
    """
    chosen = _spread(len(images), most)
    if len(chosen) < 2:
        raise ValueError(f"swapping needs two images, got {len(chosen)}")
    own: list[Scores] = []
    swapped: list[Scores] = []
    for position, i in enumerate(track(progress, "swapping images", chosen, len(chosen), "images")):
        masks_BHW = masks_of(i)
        masks_BHW = masks_BHW[_spread(len(masks_BHW), ACTIONS_TO_SWAP)]
        other = _resized(images[_another(chosen, position)], masks_BHW.shape[1:])
        for scores, image in ((own, images[i]), (swapped, other)):
            judged = score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge_of(i))
            scores.append(judged["reward_net"])
    return np.concatenate(own), np.concatenate(swapped)


def _masks(
    truth_HW: Masks, other_HW: Masks | None, rng: np.random.Generator
) -> Iterator[tuple[tuple[ProbeKind, float], Masks]]:
    unit = unit_px(truth_HW)
    yield ("truth", 0), truth_HW
    outside_HW = _distance(~truth_HW)
    for radius in DILATIONS_PX:
        yield ("dilation", radius), outside_HW <= radius * unit
    inside_HW = _distance(truth_HW)
    for radius in EROSIONS_PX:
        yield ("erosion", radius), inside_HW > radius * unit
    places_N2 = rng.permutation(np.argwhere(~truth_HW))
    for n in ISLANDS:
        yield ("islands", n), truth_HW | disks_at(places_N2[:n], truth_HW.shape, unit)
    yield ("skeleton", 0), skeleton(truth_HW)
    yield ("empty", 0), np.zeros_like(truth_HW)
    yield ("full", 0), np.ones_like(truth_HW)
    if other_HW is not None:
        yield ("swapped image", 0), swap(truth_HW, other_HW)


def _distance(mask_HW: Masks) -> Scores:
    """Return each pixel's distance to the nearest one outside the mask; the frame's border is none."""
    if mask_HW.all():
        return np.full(mask_HW.shape, np.inf)
    distance: Scores = scipy.ndimage.distance_transform_edt(mask_HW)
    return distance


def _spread(n: int, most: int) -> list[int]:
    return [int(i) for i in np.linspace(0, n - 1, min(n, most)).round()]


def _another(chosen: Sequence[int], position: int) -> int:
    # Half-way round: neighbours in a data set are often the two eyes of one patient.
    return chosen[(position + len(chosen) // 2) % len(chosen)]


def _resized(image_HWC: Pixels, size: tuple[int, ...]) -> Pixels:
    if image_HWC.shape[:2] == size:
        return image_HWC
    height, width = size
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR))
