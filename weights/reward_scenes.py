"""What the embedded reward network is pretrained on: synthetic scenes with masks of every quality."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from randomisation import draw_scene

from job.actions import ActionSpace, PostProcess, apply_all
from job.data.fundus import render, smooth_noise, usual_appearance
from job.reward import terms
from job.reward.corruptions import corrupted
from job.reward.coverage import coverage_bytes
from job.reward.inputs import image_channels
from job.segmenters.protocol import Segmenter
from job.spec.actions import DEFAULT_POSTPROCESS, DEFAULT_PROMPTS

GRID_PX = 128
ACTIONS_A_SCENE = 32
STRANGERS_A_SCENE = 12


class RewardScene(NamedTuple):
    """An image as the network sees it, its two possible truths, and M masks with their Dice under each.

    Truths (coverage 0..255) are all vessels and the major ones; `style_chance_2` says how probable it is that
    an annotator drew the one or the other. A pool of scenes has the same fields with a leading axis.
    """

    channels_CHW: NDArray[np.float16]
    truths_2HW: NDArray[np.uint8]
    masks_MHW: NDArray[np.uint8]
    dice_2M: NDArray[np.float32]
    style_chance_2: NDArray[np.float32]


def default_space() -> ActionSpace:
    """Return the actions that a spec has when it names none."""
    settings = tuple(PostProcess(**setting.model_dump()) for setting in DEFAULT_POSTPROCESS)
    return ActionSpace(tuple(DEFAULT_PROMPTS), settings)


def draw_reward_scene(rng: np.random.Generator, segmenter: Segmenter) -> RewardScene:
    """Draw a scene; three in ten are drawn at twice the grid, so that masks cover cells in part."""
    size = GRID_PX * (2 if rng.uniform() < 0.3 else 1)
    image, truths, style_chance = _picture(rng, size)
    truth = truths[int(rng.uniform() < style_chance[1])]
    elsewhere = np.rot90(truth, int(rng.integers(1, 4)))  # real vessels in the wrong places
    masks = np.concatenate([_segmented(rng, segmenter, image), corrupted(truth, [elsewhere], rng)])
    grid = (GRID_PX, GRID_PX)
    dice = [terms.score(masks, truth, ["dice"])["dice"] for truth in truths]
    return RewardScene(
        image_channels(image, GRID_PX).numpy().astype(np.float16),
        _as_bytes(truths, grid),
        _as_bytes(masks, grid),
        np.stack(dice).astype(np.float32),
        np.array(style_chance, dtype=np.float32),
    )


def _picture(
    rng: np.random.Generator, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[float, float]]:
    """Draw an image (usual or randomised), its truths `[2, H, W]` and the chance of each."""
    if rng.uniform() < 0.5:
        scene = draw_scene(rng, size)
        return scene.image_HWC, np.stack([scene.vessels_HW, scene.major_HW]), (0.85, 0.15)
    clarity = (
        rng.uniform() if rng.uniform() < 0.3 else rng.choice([rng.uniform(0.7, 1.0), rng.uniform(0.0, 0.3)])
    )
    fundus = render(rng, size, appearance=usual_appearance(rng, float(clarity)))
    # Hazy images have only their major vessels annotated, as a rule: other data sets may do otherwise.
    chance_all = 0.98 if clarity >= 0.5 else 0.1
    return fundus.image_HWC, np.stack([fundus.vessels_HW, fundus.major_HW]), (chance_all, 1 - chance_all)


def _segmented(rng: np.random.Generator, segmenter: Segmenter, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return masks of the segmenter's default actions, and masks as if another segmenter had made them."""
    space = default_space()
    logits_PHW = segmenter.segment([image], space.prompts)[0].logits_PHW
    size = (image.shape[0], image.shape[1])
    usual = apply_all(space, logits_PHW, size)
    kept = rng.permutation(len(usual))[:ACTIONS_A_SCENE]
    strange_PHW = np.stack([_stranger(rng, logits_PHW) for _ in range(STRANGERS_A_SCENE // 3)])
    strange = apply_all(
        ActionSpace(tuple(f"stranger {p}" for p in range(len(strange_PHW))), _settings(rng, 3)),
        strange_PHW,
        size,
    )
    return np.concatenate([usual[kept], strange])


def _stranger(rng: np.random.Generator, logits_PHW: NDArray[np.float16]) -> NDArray[np.float16]:
    """Blend prompts, sharpen or flatten, shift, add smooth errors: logits `[H, W]` as of a stranger."""
    share_P = rng.dirichlet(np.full(len(logits_PHW), 0.3)).astype(np.float32)
    blended = np.tensordot(share_P, logits_PHW.astype(np.float32), axes=1)
    size = blended.shape[0]
    errors = smooth_noise(rng, size, rng.uniform(1.5, 4.0)) + smooth_noise(rng, size, rng.uniform(8.0, 40.0))
    strange = rng.uniform(0.4, 1.6) * blended + rng.normal(0, 1.0) + rng.uniform(0.0, 1.5) * errors
    return np.clip(strange, -60, 60).astype(np.float16)


def _settings(rng: np.random.Generator, n: int) -> tuple[PostProcess, ...]:
    return tuple(
        PostProcess(
            threshold=float(rng.uniform(0.2, 0.95)),
            low=None if rng.uniform() < 0.5 else float(rng.uniform(0.05, 0.19)),
            min_area=int(rng.choice([0, 0, 20, 60, 120])),
            closing_radius=int(rng.choice([0, 0, 1, 2])),
        )
        for _ in range(n)
    )


def _as_bytes(masks_BHW: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.uint8]:
    return coverage_bytes(masks_BHW, grid)
