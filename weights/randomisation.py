"""Heavy domain randomisation: crops of synthetic photographs that vary far more than the embedded data set.

Everything that differs between cameras and eyes is drawn afresh for each crop: the aim is that a real
photograph looks like one more draw (Tobin et al. 2017).
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.data.fundus import Appearance, render, smooth_noise, to_bytes, usual_appearance, usual_tree_style
from job.data.vessel_tree import Frame, TreeStyle, draw, grow

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A crop `[S, S, 3]` and what each prompt should find in it."""

    image_HWC: NDArray[np.uint8]
    vessels_HW: NDArray[np.bool_]
    major_HW: NDArray[np.bool_]


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw one training crop: one in three from the data set's own distribution, the rest randomised."""
    if rng.uniform() < 0.33:
        return _usual_scene(rng, size)
    frame = _frame(rng, size)
    style = _tree_style(rng, frame.radius_px)
    fundus = render(rng, size, tree_style=style, appearance=_appearance(rng, frame), frame=frame)
    image: Float = fundus.image_HWC.astype(np.float32) / np.float32(255)
    inside = fundus.fov_HW & _letterbox(rng, frame)
    if rng.uniform() < 0.4:
        image = _over_choroid(rng, image, frame, style)
    image = image * (
        1 + np.float32(rng.uniform(0, 0.05)) * smooth_noise(rng, size, rng.uniform(1.2, 4.0))[..., None]
    )
    image = _local_contrast(rng, image)
    image = _camera(rng, image)
    image = np.where(inside[..., None], image, rng.uniform(0, 0.03)).astype(np.float32)
    pixels = to_bytes(image)
    if rng.uniform() < 0.5:
        pixels = _jpeg(rng, pixels)
    return Scene(pixels, fundus.vessels_HW & inside, fundus.major_HW & inside)


def _usual_scene(rng: np.random.Generator, size: int) -> Scene:
    """A photograph as the data set has it, at 128 px magnification or up to four times that."""
    radius = 61.44 * (1.0 if rng.uniform() < 0.7 else rng.uniform(1.0, 4.0))
    frame = _place(rng, size, radius)
    appearance = usual_appearance(rng, clarity=float(rng.uniform()))
    fundus = render(rng, size, tree_style=usual_tree_style(rng), appearance=appearance, frame=frame)
    return Scene(fundus.image_HWC, fundus.vessels_HW, fundus.major_HW)


def _frame(rng: np.random.Generator, size: int) -> Frame:
    """Draw a magnification: a field of 110 to 560 px across, of which a large one is seen in part."""
    return _place(rng, size, float(np.exp(rng.uniform(np.log(55), np.log(280)))))


def _place(rng: np.random.Generator, size: int, radius_px: float) -> Frame:
    slack = 0.85 * abs(radius_px * 1.04 - size / 2)
    shift = rng.uniform(-slack, slack, 2)
    centre = (size - 1) / 2 + shift
    return Frame(size=size, radius_px=radius_px, centre_xy=(float(centre[0]), float(centre[1])))


def _tree_style(rng: np.random.Generator, radius_px: float) -> TreeStyle:
    """Draw a tree whose trunks are 2.6 to 11 px wide and whose finest vessels fall below a pixel."""
    low, high = max(0.010, 1.3 / radius_px), min(0.042, 5.5 / radius_px)
    trunk = float(np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01)))))
    direction, reach = rng.uniform(0, 2 * np.pi), 0.7 * np.sqrt(rng.uniform())
    return TreeStyle(
        trunk_radius=trunk,
        fine_radius=max(trunk * rng.uniform(0.14, 0.38), 0.4 / radius_px),
        n_arcades=int(rng.integers(2, 7)),
        n_radial=int(rng.integers(0, 11)),
        branch_rate=rng.uniform(1.2, 4.0),
        taper=rng.uniform(0.2, 0.8),
        tortuosity=rng.uniform(0.5, 2.6),
        steer=rng.uniform(1.0, 4.0),
        fine_length=rng.uniform(0.2, 0.8),
        disc_xy=(float(reach * np.cos(direction)), float(reach * np.sin(direction))),
        fovea_distance=rng.uniform(0.5, 1.0),
    )


def _appearance(rng: np.random.Generator, frame: Frame) -> Appearance:
    """Draw colours, contrast and disturbances, these in proportion to the vessels' contrast."""
    red = rng.uniform(0.30, 0.95)
    green = red * rng.uniform(0.22, 0.80)
    absorb = rng.uniform(0.14, 0.62)
    veil = rng.uniform(0.5, 1.6) * np.array([red, green, green]) * rng.uniform(0.7, 1.3, 3)
    haze = rng.uniform() ** 2
    return Appearance(
        clarity=1 - haze,
        tissue=(red, green, green * rng.uniform(0.06, 0.9)),
        absorption=(absorb * rng.uniform(-0.1, 0.7), absorb, absorb * rng.uniform(0.1, 1.1)),
        thinning=rng.uniform(0.1, 0.8),
        edge_softness_px=rng.uniform(0.8, 2.2),
        reflex=rng.uniform(0.0, 1.1) * absorb if rng.uniform() < 0.7 else 0.0,
        illumination_xy=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)),
        vignette=rng.uniform(0.0, 0.5),
        texture=rng.uniform(0.0, 0.16) * absorb,
        mottling=rng.uniform(0.0, 0.30) * absorb,
        choroid=rng.uniform(0.0, 0.45) * absorb,
        sheen=rng.uniform(0.0, 0.25) if rng.uniform() < 0.5 else 0.0,
        striation=rng.uniform(0.0, 0.7) * absorb if rng.uniform() < 0.6 else 0.0,
        disc_radius=rng.uniform(0.1, 0.26) if rng.uniform() < 0.9 else 0.0,
        disc_brightness=rng.uniform(0.2, 1.1),
        fovea_depth=rng.uniform(0.0, 0.5),
        n_bright_lesions=int(rng.poisson(3)) if rng.uniform() < 0.3 else 0,
        n_dark_lesions=int(rng.poisson(4)) if rng.uniform() < 0.35 else 0,
        veil=(float(veil[0]), float(veil[1]), float(veil[2])),
        veil_share=0.5 * haze,
        blur=rng.uniform(0.2, 0.5 + 1.1 * haze) / frame.radius_px,
        noise=float(np.exp(rng.uniform(np.log(0.004), np.log(0.12)))) * absorb,
        vessel_dropout=rng.uniform(0.0, 0.7) if rng.uniform() < 0.5 else 0.0,
    )


def _letterbox(rng: np.random.Generator, frame: Frame) -> NDArray[np.bool_]:
    """Cut the field above and below, as many cameras do."""
    rows = (np.arange(frame.size) - frame.centre_xy[1]) / frame.radius_px
    limit = rng.uniform(0.6, 0.95) if rng.uniform() < 0.25 else 1.1
    return np.broadcast_to((np.abs(rows) < limit)[:, None], (frame.size, frame.size))


def _over_choroid(rng: np.random.Generator, image: Float, frame: Frame, style: TreeStyle) -> Float:
    """Let blurred choroidal vessels shine through, brighter or darker: tubes that no prompt asks for."""
    trunk = float(np.clip(style.trunk_radius * rng.uniform(0.8, 2.5), 0.012, 0.06))
    deep = replace(
        style,
        trunk_radius=trunk,
        fine_radius=0.5 * trunk,
        n_radial=int(rng.integers(4, 14)),
        branch_rate=rng.uniform(2, 6),
        tortuosity=rng.uniform(2, 5),
        disc_xy=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
    )
    maps = draw(grow(rng, deep), frame)
    softness = rng.uniform(0.5, 1.0) * 3.0
    tube = np.clip(0.5 - maps.distance_HW / (2 * softness), 0, 1)
    tube *= np.clip(0.5 + 0.6 * smooth_noise(rng, frame.size, 0.25 * frame.radius_px), 0, 1)
    amount = rng.uniform(0.05, 0.30) * (1 if rng.uniform() < 0.7 else -0.6)
    tint = np.array([1.0, rng.uniform(0.3, 1.2), rng.uniform(0.0, 1.0)], dtype=np.float32)
    return np.asarray(image * (1 + amount * tube[..., None] * tint), dtype=np.float32)


def _local_contrast(rng: np.random.Generator, image: Float) -> Float:
    """Raise contrast here and lower it there, about a smooth local mean."""
    size = image.shape[0]
    cell = rng.uniform(15, 60)
    small = Image.fromarray(to_bytes(image)).resize((max(2, int(size / cell)),) * 2, Image.Resampling.BOX)
    mean = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    gain = np.exp(rng.uniform(0, 0.3) * smooth_noise(rng, size, rng.uniform(25, 90)) + rng.uniform(-0.3, 0.4))
    return np.asarray(mean + gain[..., None] * (image - mean), dtype=np.float32)


def _camera(rng: np.random.Generator, image: Float) -> Float:
    """Mix channels, bend each channel's response, change exposure; some photographs are grey (red-free)."""
    mixing = np.eye(3) + rng.normal(0, 0.10, (3, 3))
    image = np.clip(image @ mixing.T.astype(np.float32), 0, 1)
    image = image ** np.exp(rng.uniform(-0.4, 0.4, 3)).astype(np.float32)
    image = image * np.float32(rng.uniform(0.7, 1.3))
    if rng.uniform() < 0.08:
        image = np.repeat(image[..., 1:2], 3, axis=2)
    return np.asarray(image, dtype=np.float32)


def _jpeg(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=int(rng.integers(35, 96)))
    return np.asarray(Image.open(buffer), dtype=np.uint8)
