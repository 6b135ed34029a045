"""Synthetic retinal vessel trees: grown in units of the field's radius, drawn as distances in pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEP = 0.024
_MAX_STEPS = 130
_MAX_TIPS = 400
_MARGIN_PX = 3.0
_THINNEST_PX = 0.55  # a line this wide (half width) is 8-connected whatever its angle
_DISTANCE_UNITS = 256  # distances are integers of 1/256 px, so that equal seeds give equal pixels


@dataclass(frozen=True)
class TreeStyle:
    """What kind of tree to grow; lengths are in units of the field of view's radius.

    `trunk_radius` and `fine_radius` bound half widths; a vessel is "major" where its half width exceeds
    `major_share * trunk_radius`. `branch_rate` is branchings a unit of length, `tortuosity` the noise of the
    curvature, `disc_xy` the optic disc's centre and `fovea_distance` how far the fovea lies from it.
    """

    trunk_radius: float = 0.032
    fine_radius: float = 0.010
    major_share: float = 0.55
    n_arcades: int = 4
    n_radial: int = 4
    branch_rate: float = 3.2
    taper: float = 0.25
    tortuosity: float = 1.6
    steer: float = 3.0
    fine_length: float = 0.45
    disc_xy: tuple[float, float] = (-0.55, 0.0)
    fovea_distance: float = 0.75


@dataclass(frozen=True)
class VesselTree:
    """Straight segments `[S]` of a tree: both ends and half widths there in field units, and their kind."""

    start_S2: NDArray[np.float64]
    end_S2: NDArray[np.float64]
    start_radius_S: NDArray[np.float64]
    end_radius_S: NDArray[np.float64]
    is_vein_S: NDArray[np.bool_]
    is_major_S: NDArray[np.bool_]
    trunk_radius: float


@dataclass(frozen=True)
class Frame:
    """Where the round field of view lies in a square image, in pixels; the image may show only a part."""

    size: int
    radius_px: float
    centre_xy: tuple[float, float]

    @classmethod
    def whole(cls, size: int, *, fill: float = 0.96) -> "Frame":
        """Return the frame that shows the whole field, `fill` of the image wide."""
        return cls(size=size, radius_px=fill * size / 2, centre_xy=((size - 1) / 2, (size - 1) / 2))


@dataclass(frozen=True)
class VesselMaps:
    """A drawn tree: signed distance to the nearest wall in pixels (negative inside), and that vessel's kind.

    `major_distance_HW` sees major vessels alone. Distances are capped at a few pixels. `radius_HW` is the
    true half width in pixels, also where the drawn one was raised to stay connected.
    """

    distance_HW: NDArray[np.float32]
    major_distance_HW: NDArray[np.float32]
    radius_HW: NDArray[np.float32]
    is_vein_HW: NDArray[np.bool_]


def grow(rng: np.random.Generator, style: TreeStyle) -> VesselTree:
    """Grow arteries and veins from the optic disc, all tips in lock step.

    Trunks bend around the fovea as the temporal arcades do; branches follow Murray's law (cubes of the radii
    add up); tips end at the field's edge, before the fovea, or when too thin.
    """
    disc = np.array(style.disc_xy)
    temporal = np.array([1.0 if disc[0] <= 0 else -1.0, float(rng.normal(0, 0.12))])
    temporal /= np.hypot(*temporal)
    fovea = disc + style.fovea_distance * temporal
    tips = _first_tips(rng, style, disc, temporal)
    segments: list[_Tips] = []
    ends: list[NDArray[np.float64]] = []
    end_radii: list[NDArray[np.float64]] = []
    for step in range(_MAX_STEPS):
        if not len(tips.radius):
            break
        before = tips
        tips = _advance(rng, style, tips, disc, temporal)
        segments.append(before)
        ends.append(tips.xy)
        end_radii.append(tips.radius)
        if step % 2:
            tips = _branch(rng, style, tips)
        tips = tips.keep(_alive(style, tips, fovea))
    start_radius = np.concatenate([s.radius for s in segments])
    end_radius = np.concatenate(end_radii)
    return VesselTree(
        start_S2=np.concatenate([s.xy for s in segments]),
        end_S2=np.concatenate(ends),
        start_radius_S=start_radius,
        end_radius_S=end_radius,
        is_vein_S=np.concatenate([s.is_vein for s in segments]),
        is_major_S=(start_radius + end_radius) / 2 > style.major_share * style.trunk_radius,
        trunk_radius=style.trunk_radius,
    )


def draw(tree: VesselTree, frame: Frame) -> VesselMaps:
    """Draw a tree into a frame as exact distances to tapering segments; pixels far from any are capped."""
    scale, offset = frame.radius_px, np.array(frame.centre_xy)
    start_S2 = np.round((tree.start_S2 * scale + offset) * 64) / 64
    end_S2 = np.round((tree.end_S2 * scale + offset) * 64) / 64
    radius_S2 = np.round(np.stack([tree.start_radius_S, tree.end_radius_S], 1) * scale * 64) / 64
    half_S = np.ceil(
        np.hypot(*(end_S2 - start_S2).T) / 2 + np.maximum(radius_S2.max(1), _THINNEST_PX) + _MARGIN_PX + 0.5
    ).astype(np.int64)
    middle_S2 = np.floor((start_S2 + end_S2) / 2).astype(np.int64)
    inside_S = ((middle_S2 > -half_S[:, None]) & (middle_S2 < frame.size + half_S[:, None])).all(1)
    n_pixels = frame.size**2
    cap = int(_MARGIN_PX * _DISTANCE_UNITS)
    # One integer a pixel and layer (fine, major): the distance above, the segment below, so that a single
    # unordered minimum finds both the nearest wall and whose it is.
    nearest = np.full(2 * n_pixels, _pack(np.array(cap), np.array(0)), dtype=np.int64)
    for half in np.unique(half_S[inside_S]):
        (members,) = np.nonzero(inside_S & (half_S == half))
        for chunk in np.array_split(members, max(1, len(members) * (2 * half + 1) ** 2 // 400_000)):
            pixel, distance, owner = _distances(
                start_S2[chunk], end_S2[chunk], radius_S2[chunk], middle_S2[chunk], int(half), frame.size
            )
            layer = tree.is_major_S[chunk[owner]] * n_pixels
            np.minimum.at(nearest, layer + pixel, _pack(distance, chunk[owner]))
    fine, major = nearest[:n_pixels], nearest[n_pixels:]
    distance, owner = _unpack(np.minimum(fine, major))
    shape = (frame.size, frame.size)
    return VesselMaps(
        distance_HW=(distance / _DISTANCE_UNITS).astype(np.float32).reshape(shape),
        major_distance_HW=(_unpack(major)[0] / _DISTANCE_UNITS).astype(np.float32).reshape(shape),
        radius_HW=radius_S2.mean(1)[owner].astype(np.float32).reshape(shape),
        is_vein_HW=tree.is_vein_S[owner].reshape(shape),
    )


@dataclass(frozen=True)
class _Tips:
    """Growing ends `[T]`; `to_go` and `since` are lengths: to the end, and since the last fork."""

    xy: NDArray[np.float64]
    heading: NDArray[np.float64]
    curl: NDArray[np.float64]
    radius: NDArray[np.float64]
    to_go: NDArray[np.float64]
    since: NDArray[np.float64]
    is_vein: NDArray[np.bool_]

    def keep(self, mask: NDArray[np.bool_]) -> "_Tips":
        return _Tips(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def join(self, other: "_Tips") -> "_Tips":
        return _Tips(
            *(np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__dataclass_fields__)
        )


def _first_tips(
    rng: np.random.Generator, style: TreeStyle, disc: NDArray[np.float64], temporal: NDArray[np.float64]
) -> _Tips:
    """Return the tips at the disc: an artery and a vein for each arcade, then thinner radial vessels."""
    axis = np.arctan2(temporal[1], temporal[0])
    corners = np.array([1.15, -1.15, 2.3, -2.3, 1.7, -1.7])[: style.n_arcades]
    heading = np.concatenate(
        [
            axis + np.repeat(corners, 2) + rng.normal(0, 0.22, 2 * len(corners)),
            axis + rng.uniform(-np.pi, np.pi, style.n_radial),
        ]
    )
    n = len(heading)
    radius = np.concatenate(
        [
            style.trunk_radius * rng.uniform(0.75, 1.0, 2 * len(corners)),
            rng.uniform(style.fine_radius, 0.5 * style.trunk_radius, style.n_radial),
        ]
    )
    start = disc + 0.05 * rng.normal(0, 1, (n, 2)) * 0.6
    return _Tips(
        xy=np.round(start, 6),
        heading=np.round(heading, 6),
        curl=np.zeros(n),
        radius=np.round(radius, 6),
        to_go=np.full(n, 9.0),
        since=np.zeros(n),
        is_vein=np.arange(n) % 2 == 1,
    )


def _advance(
    rng: np.random.Generator,
    style: TreeStyle,
    tips: _Tips,
    disc: NDArray[np.float64],
    temporal: NDArray[np.float64],
) -> _Tips:
    """Move every tip one step along a heading that is steered outwards, bent temporally, and disturbed."""
    away = tips.xy - disc
    distance = np.hypot(away[:, 0], away[:, 1]) + 1e-3
    outwards = away / distance[:, None]
    side = np.clip(outwards @ temporal + 0.35, 0, 1) * np.clip(distance * 1.6 - 0.3, 0, 1.3)
    wanted = outwards + side[:, None] * temporal
    cross = np.cos(tips.heading) * wanted[:, 1] - np.sin(tips.heading) * wanted[:, 0]
    thickness = np.clip(tips.radius / style.trunk_radius, 0.05, 1)
    curl = 0.86 * tips.curl + style.tortuosity * rng.normal(0, 1, len(cross)) * (1.25 - 0.6 * thickness)
    heading = np.round(tips.heading + _STEP * (style.steer * (0.12 + 0.88 * thickness) * cross + curl), 6)
    move = _STEP * np.stack([np.cos(heading), np.sin(heading)], 1)
    return _Tips(
        xy=np.round(tips.xy + move, 6),
        heading=heading,
        curl=np.round(curl, 6),
        radius=np.round(tips.radius * (1 - style.taper * _STEP), 6),
        to_go=tips.to_go - _STEP,
        since=tips.since + _STEP,
        is_vein=tips.is_vein,
    )


def _branch(rng: np.random.Generator, style: TreeStyle, tips: _Tips) -> _Tips:
    """Let some tips fork: a child leaves to one side, the parent keeps what Murray's law leaves it.

    Called once every two steps, for speed.
    """
    n = len(tips.radius)
    draw_n = rng.uniform(0, 1, n)
    # Either the vessel splits into near equals, or a clearly thinner side branch leaves.
    share = np.where(rng.uniform(0, 1, n) < 0.25, rng.uniform(0.72, 0.95, n), rng.uniform(0.25, 0.5, n))
    side = np.where(rng.uniform(0, 1, n) < 0.5, -1.0, 1.0)
    angle = rng.uniform(0.6, 1.35, n)
    length = rng.exponential(1.0, n)
    forks = (draw_n < 2 * _STEP * style.branch_rate) & (n < _MAX_TIPS)
    forks &= (tips.since > 0.06) & (tips.radius > 1.15 * style.fine_radius)
    child_radius = np.maximum(share * tips.radius, style.fine_radius).round(6)
    left_cubed = np.maximum(tips.radius**3 - child_radius**3, (0.7 * tips.radius) ** 3)
    left = np.asarray(np.cbrt(left_cubed), dtype=np.float64)
    thin = child_radius < 0.6 * style.trunk_radius
    children = _Tips(
        xy=tips.xy,
        heading=np.round(tips.heading + side * angle, 6),
        curl=np.zeros(n),
        radius=child_radius,
        to_go=np.where(thin, style.fine_length * (0.4 + length), 9.0),
        since=np.zeros(n),
        is_vein=tips.is_vein,
    ).keep(forks)
    parents = _Tips(
        xy=tips.xy,
        heading=np.where(forks, np.round(tips.heading - side * 0.25 * angle * share, 6), tips.heading),
        curl=tips.curl,
        radius=np.where(forks, np.round(left, 6), tips.radius),
        to_go=tips.to_go,
        since=np.where(forks, 0.0, tips.since),
        is_vein=tips.is_vein,
    )
    return parents.join(children)


def _alive(style: TreeStyle, tips: _Tips, fovea: NDArray[np.float64]) -> NDArray[np.bool_]:
    in_field = np.hypot(tips.xy[:, 0], tips.xy[:, 1]) < 1.03
    off_fovea = np.hypot(*(tips.xy - fovea).T) > 0.14
    alive: NDArray[np.bool_] = in_field & off_fovea & (tips.to_go > 0)
    return alive & (tips.radius > 0.62 * style.fine_radius)


def _distances(
    start_S2: NDArray[np.float64],
    end_S2: NDArray[np.float64],
    radius_S2: NDArray[np.float64],
    middle_S2: NDArray[np.int64],
    half: int,
    size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return flat pixel, distance in 1/256 px and segment for all pixels near segments of one reach."""
    reach = np.arange(-half, half + 1)
    x_SW = middle_S2[:, 0, None] + reach
    y_SW = middle_S2[:, 1, None] + reach
    along = end_S2 - start_S2
    length2 = np.maximum((along**2).sum(1), 1e-9)
    dx_SW, dy_SW = x_SW - start_S2[:, 0, None], y_SW - start_S2[:, 1, None]
    projection = (dy_SW * along[:, 1, None])[:, :, None] + (dx_SW * along[:, 0, None])[:, None, :]
    t = np.clip(projection / length2[:, None, None], 0, 1)
    gap = np.hypot(
        dx_SW[:, None, :] - t * along[:, 0, None, None], dy_SW[:, :, None] - t * along[:, 1, None, None]
    )
    radius = np.maximum(radius_S2, _THINNEST_PX)
    wall = radius[:, 0, None, None] + t * (radius[:, 1] - radius[:, 0])[:, None, None]
    distance = np.round((gap - wall) * _DISTANCE_UNITS).astype(np.int64)
    near = distance < int(_MARGIN_PX * _DISTANCE_UNITS)
    near &= ((x_SW >= 0) & (x_SW < size))[:, None, :] & ((y_SW >= 0) & (y_SW < size))[:, :, None]
    owner, row, column = np.nonzero(near)
    return y_SW[owner, row] * size + x_SW[owner, column], distance[near], owner


_SEGMENT_BITS = 20


def _pack(distance: NDArray[np.int64], segment: NDArray[np.int64]) -> NDArray[np.int64]:
    return (distance << _SEGMENT_BITS) | segment


def _unpack(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return packed >> _SEGMENT_BITS, packed & ((1 << _SEGMENT_BITS) - 1)
