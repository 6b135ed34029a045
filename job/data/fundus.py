"""Synthetic fundus photographs with exact masks: the embedded data set `synthetic:fundus`.

The data are built so that the best prompt depends on the image: with `annotation="by_clarity"` the hazy half
of the images has only its major vessels annotated, as a reader of a poor photograph would.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from job.data.vessel_tree import Frame, TreeStyle, VesselMaps, draw, grow

REVISION = 1

Annotation = Literal["by_clarity", "all"]
Float = NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """How a field of view looks; colours are RGB in 0..1, lengths in units of the field's radius.

    `clarity` says how good the photograph is, 1 at best; `veil_share`, `blur` and `noise` make it so.
    `absorption` is what a thick vessel takes away from each channel, thin ones take
    `(width / trunk) ** thinning` of it.
    """

    clarity: float = 1.0
    tissue: Colour = (0.66, 0.30, 0.11)
    absorption: Colour = (0.26, 0.62, 0.45)
    thinning: float = 0.40
    edge_softness_px: float = 1.1
    reflex: float = 0.16
    illumination_xy: tuple[float, float] = (0.0, 0.0)
    vignette: float = 0.22
    texture: float = 0.05
    mottling: float = 0.06
    choroid: float = 0.0
    sheen: float = 0.05
    striation: float = 0.0
    disc_radius: float = 0.16
    disc_brightness: float = 0.8
    fovea_depth: float = 0.25
    n_bright_lesions: int = 0
    n_dark_lesions: int = 0
    veil: Colour = (0.60, 0.42, 0.26)
    veil_share: float = 0.0
    blur: float = 0.003
    noise: float = 0.02
    vessel_dropout: float = 0.0


@dataclass(frozen=True)
class Fundus:
    """A photograph `[H, W, 3]` with its exact masks: `major_HW` lies in `vessels_HW`, that in `fov_HW`."""

    image_HWC: NDArray[np.uint8]
    vessels_HW: NDArray[np.bool_]
    major_HW: NDArray[np.bool_]
    fov_HW: NDArray[np.bool_]
    clarity: float


@dataclass(frozen=True)
class Sample:
    """One image of the data set with the mask that its annotation style gives it."""

    image_HWC: NDArray[np.uint8]
    mask_HW: NDArray[np.bool_]
    fov_HW: NDArray[np.bool_]
    clarity: float


def sample(index: int, *, seed: int, size: int, annotation: Annotation = "by_clarity") -> Sample:
    """Return image `index` of the data set that `seed` names, the same pixels each time.

    The picture does not depend on `annotation`, only the mask does. Raises ValueError for an unknown style.
    """
    if annotation not in ("by_clarity", "all"):
        raise ValueError(f"annotation must be 'by_clarity' or 'all', got {annotation!r}")
    fundus = render(np.random.default_rng([seed, index]), size)
    major_only = annotation == "by_clarity" and fundus.clarity < 0.5
    mask = fundus.major_HW if major_only else fundus.vessels_HW
    return Sample(fundus.image_HWC, mask, fundus.fov_HW, fundus.clarity)


def render(
    rng: np.random.Generator,
    size: int,
    *,
    tree_style: TreeStyle | None = None,
    appearance: Appearance | None = None,
    frame: Frame | None = None,
) -> Fundus:
    """Draw one photograph of `size` x `size` pixels.

    What is not given is drawn from the data set's own distribution. Raises ValueError when the frame is of
    another size.

    Only arithmetic that rounds alike everywhere decides geometry, and intensities are quantised before they
    become bytes: equal generators give equal pixels under pinned libraries.
    """
    clear_or_hazy = rng.uniform(0.7, 1.0) if rng.uniform() < 0.5 else rng.uniform(0.0, 0.3)
    tree_style = tree_style or usual_tree_style(rng)
    appearance = appearance or usual_appearance(rng, clear_or_hazy)
    frame = frame or Frame.whole(size)
    if frame.size != size:
        raise ValueError(f"the frame is {frame.size} px wide, the image {size}")
    maps = draw(grow(rng, tree_style), frame)
    field_ = _Field.of(frame)
    fov = field_.rho_HW < 1
    colour = _retina(rng, field_, tree_style, appearance)
    colour = _with_vessels(rng, colour, maps, field_, tree_style, appearance)
    colour = _with_lesions(rng, colour, field_, appearance)
    colour = _through_haze(rng, colour, field_, appearance)
    colour = np.where(fov[..., None], colour, 0.012)
    colour += np.float32(appearance.noise) * _grain(rng, size)
    vessels = (maps.distance_HW < 0) & fov
    major = (maps.major_distance_HW < 0) & fov
    return Fundus(to_bytes(colour), vessels, major, fov, float(appearance.clarity))


def usual_tree_style(rng: np.random.Generator) -> TreeStyle:
    """Draw a tree style of the data set."""
    trunk = rng.uniform(0.030, 0.040)
    return TreeStyle(
        trunk_radius=trunk,
        fine_radius=trunk * rng.uniform(0.30, 0.38),
        branch_rate=rng.uniform(1.1, 2.1),
        n_radial=int(rng.integers(1, 5)),
        tortuosity=rng.uniform(0.8, 1.7),
        disc_xy=(float(rng.choice([-1.0, 1.0])) * rng.uniform(0.35, 0.6), rng.uniform(-0.1, 0.1)),
    )


def usual_appearance(rng: np.random.Generator, clarity: float) -> Appearance:
    """Draw an appearance of the data set: as clarity falls a veil lowers contrast, blur and noise grow."""
    haze = 1 - clarity
    red = rng.uniform(0.55, 0.78)
    return Appearance(
        clarity=clarity,
        tissue=(red, red * rng.uniform(0.38, 0.52), red * rng.uniform(0.12, 0.24)),
        illumination_xy=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        reflex=rng.uniform(0.0, 0.25),
        texture=rng.uniform(0.02, 0.05),
        mottling=rng.uniform(0.03, 0.08),
        choroid=rng.uniform(0.0, 0.08),
        n_bright_lesions=int(rng.poisson(2)) if rng.uniform() < 0.4 else 0,
        n_dark_lesions=int(rng.poisson(3)) if rng.uniform() < 0.5 else 0,
        veil_share=0.35 * haze,
        blur=0.003 + 0.006 * haze,
        noise=rng.uniform(0.008, 0.018) * (1 + haze),
    )


def to_bytes(colour_HWC: Float) -> NDArray[np.uint8]:
    """Turn intensities in 0..1 into bytes by way of 1/16 levels: a last-bit difference seldom shows."""
    levels = np.round(colour_HWC * (255 * 16)) / 16
    return np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, size: int, cell_px: float) -> Float:
    """Return bicubic value noise `[size, size]` of about unit deviation, its blobs `cell_px` wide."""
    cell_px = max(cell_px, 1.0)
    cells = int(np.ceil(size / cell_px)) + 3
    grid = Image.fromarray(rng.normal(0, 1.35, (cells, cells)).astype(np.float32))
    left, top = rng.uniform(0.5, 1.5, 2)
    box = (left, top, left + size / cell_px, top + size / cell_px)
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC, box=box), dtype=np.float32)


@dataclass(frozen=True)
class _Field:
    """Coordinates in units of the field's radius, centred on it."""

    frame: Frame
    u_HW: Float = field(repr=False)
    v_HW: Float = field(repr=False)
    rho_HW: Float = field(repr=False)

    @classmethod
    def of(cls, frame: Frame) -> "_Field":
        x = ((np.arange(frame.size) - frame.centre_xy[0]) / frame.radius_px).astype(np.float32)
        y = ((np.arange(frame.size) - frame.centre_xy[1]) / frame.radius_px).astype(np.float32)
        u, v = np.meshgrid(x, y)
        return cls(frame, u, v, np.sqrt(u * u + v * v))

    def distance_to(self, xy: tuple[float, float]) -> Float:
        return np.sqrt((self.u_HW - np.float32(xy[0])) ** 2 + (self.v_HW - np.float32(xy[1])) ** 2)

    def noise(self, rng: np.random.Generator, cell: float) -> Float:
        return smooth_noise(rng, self.frame.size, cell * self.frame.radius_px)


def _retina(rng: np.random.Generator, field_: _Field, style: TreeStyle, look: Appearance) -> Float:
    """Return the background `[H, W, 3]`: tissue, light, texture, choroid, sheen, disc and fovea."""
    gx, gy = look.illumination_xy
    light = 1 + gx * field_.u_HW + gy * field_.v_HW - look.vignette * field_.rho_HW**2
    light *= 1 + look.texture * field_.noise(rng, 0.035) + look.mottling * field_.noise(rng, 0.22)
    if look.striation > 0:
        light *= 1 + look.striation * _striation(rng, field_, style.disc_xy)
    choroid = np.abs(field_.noise(rng, 0.12)) - 0.7
    red_light = light * (1 + 1.2 * look.choroid * choroid)
    green_light = light * (1 + look.choroid * choroid + 0.5 * look.mottling * field_.noise(rng, 0.4))
    sheen = look.sheen * np.maximum(field_.noise(rng, 0.3) - 0.4, 0)
    sheen *= np.clip(0.5 + 0.5 * field_.noise(rng, 0.03), 0, 1.5)
    tissue = np.array(look.tissue, dtype=np.float32)
    colour = np.stack([red_light, green_light, light * (1 - 0.3 * look.choroid * choroid)], -1) * tissue
    colour *= 1 + sheen[..., None] * np.array([1.0, 1.4, 0.9], dtype=np.float32)

    fovea_x = style.disc_xy[0] + (style.fovea_distance if style.disc_xy[0] <= 0 else -style.fovea_distance)
    fovea = field_.distance_to((fovea_x, style.disc_xy[1])) / 0.2
    colour *= 1 - look.fovea_depth * np.exp(-(fovea**2))[..., None]

    if look.disc_radius > 0:
        rho = field_.distance_to(style.disc_xy) / look.disc_radius
        rho *= 1 + 0.06 * field_.noise(rng, 0.15)
        inside = look.disc_brightness / (1 + np.exp(np.clip((rho - 1) * 12, -30, 30)))
        cup = 0.5 / (1 + np.exp(np.clip((rho - 0.5) * 12, -30, 30)))
        disc_colour = np.array([0.94, 0.70, 0.36], dtype=np.float32) * (0.9 + 0.2 * cup[..., None])
        colour += inside[..., None] * np.maximum(disc_colour * light[..., None] - colour, 0)
    return colour.astype(np.float32)


def _striation(rng: np.random.Generator, field_: _Field, disc_xy: tuple[float, float]) -> Float:
    """Return nerve fibres: noise that is long along the rays from the disc, and fades with distance."""
    u, v = field_.u_HW - np.float32(disc_xy[0]), field_.v_HW - np.float32(disc_xy[1])
    distance = np.sqrt(u * u + v * v)
    n_rays, n_rings = int(rng.integers(90, 260)), 8
    grid = rng.normal(0, 1.2, (n_rays, n_rings)).astype(np.float32)
    turn = np.arctan2(v, u) / (2 * np.pi) * n_rays
    rays = ndimage.map_coordinates(grid, [turn, distance * 4], order=1, mode="grid-wrap")
    return np.asarray(rays * np.exp(-2.5 * distance), dtype=np.float32)


def _with_vessels(
    rng: np.random.Generator,
    colour: Float,
    maps: VesselMaps,
    field_: _Field,
    style: TreeStyle,
    look: Appearance,
) -> Float:
    """Let vessels absorb light: a rounded profile, less in thin ones, arteries paler with a bright reflex."""
    trunk_px = style.trunk_radius * field_.frame.radius_px
    drawn_radius = np.maximum(maps.radius_HW, 0.55)
    from_axis = np.clip(1 + maps.distance_HW / drawn_radius, 0, 1)
    coverage = np.clip(0.5 - maps.distance_HW / look.edge_softness_px, 0, 1)
    profile = coverage * (0.65 + 0.35 * np.sqrt(1 - from_axis**2))
    strength = np.clip(maps.radius_HW / trunk_px, 0.02, 1) ** look.thinning
    strength *= np.where(maps.is_vein_HW, 1.0, 0.78)
    # A fading of whole stretches: what a focus that varies, or a crossing fold, does to real vessels.
    strength *= 1 - look.vessel_dropout * np.clip(field_.noise(rng, 0.2), 0, 1)
    absorbed = (profile * strength)[..., None] * np.array(look.absorption, dtype=np.float32)
    colour = colour * (1 - absorbed)
    wide = np.clip(maps.radius_HW - 0.9, 0, 1) * np.where(maps.is_vein_HW, 0.4, 1.0)
    reflex = look.reflex * wide * coverage * np.exp(-((from_axis / 0.38) ** 2))
    return np.asarray(colour * (1 + reflex[..., None]), dtype=np.float32)


def _with_lesions(rng: np.random.Generator, colour: Float, field_: _Field, look: Appearance) -> Float:
    """Add hard exudates (bright, clustered) and haemorrhages (dark, blotted)."""
    for kind, count in (("bright", look.n_bright_lesions), ("dark", look.n_dark_lesions)):
        for _ in range(count):
            place = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.8, 0.8)))
            radius, stretch = float(rng.uniform(0.015, 0.055)), float(rng.uniform(0.6, 1.6))
            du, dv = field_.u_HW - np.float32(place[0]), field_.v_HW - np.float32(place[1])
            rho = np.sqrt((du * stretch) ** 2 + (dv / stretch) ** 2) / radius
            amount = (1 / (1 + np.exp(np.clip((rho - 1) * 5, -30, 30))))[..., None] * rng.uniform(0.4, 0.9)
            target = (
                np.array([0.90, 0.78, 0.42], dtype=np.float32)
                if kind == "bright"
                else colour * np.array([0.6, 0.35, 0.45], dtype=np.float32)
            )
            colour = colour + amount * (target - colour)
    return colour.astype(np.float32)


def _through_haze(rng: np.random.Generator, colour: Float, field_: _Field, look: Appearance) -> Float:
    """Lay an uneven veil over the image, then blur it."""
    veil = look.veil_share * np.clip(1 + 0.25 * field_.noise(rng, 0.5), 0.5, 1.4)
    colour = colour + veil[..., None] * (np.array(look.veil, dtype=np.float32) - colour)
    sigma = look.blur * field_.frame.radius_px
    blurred = ndimage.gaussian_filter(colour, (sigma, sigma, 0), mode="nearest", truncate=3.0)
    return np.asarray(blurred, dtype=np.float32)


def _grain(rng: np.random.Generator, size: int) -> Float:
    """Return sensor noise `[size, size, 3]`, partly shared by the channels."""
    shared = rng.standard_normal((size, size, 1), dtype=np.float32)
    own = rng.standard_normal((size, size, 3), dtype=np.float32)
    return np.float32(0.6) * shared + np.float32(0.8) * own
