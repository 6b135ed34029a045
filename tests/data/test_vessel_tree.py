"""Vessel trees: grown the same each time, drawn as distances that a brute-force search confirms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from job.data.vessel_tree import Frame, TreeStyle, VesselTree, draw, grow


def tree_of(*segments: tuple[float, float, float, float, float, bool]) -> VesselTree:
    """A tree from (x0, y0, x1, y1, half width, major) in field units."""
    table = np.array([segment[:5] for segment in segments])
    return VesselTree(
        start_S2=table[:, :2],
        end_S2=table[:, 2:4],
        start_radius_S=table[:, 4],
        end_radius_S=table[:, 4],
        is_vein_S=np.zeros(len(segments), dtype=np.bool_),
        is_major_S=np.array([segment[5] for segment in segments]),
        trunk_radius=0.05,
    )


def test_equal_seeds_grow_equal_trees() -> None:
    """The generator alone decides a tree."""
    one, two, other = (grow(np.random.default_rng(seed), TreeStyle()) for seed in (4, 4, 5))
    assert np.array_equal(one.end_S2, two.end_S2)
    assert one.end_S2.shape != other.end_S2.shape or not np.array_equal(one.end_S2, other.end_S2)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), trunk=st.floats(0.012, 0.045), disc_x=st.floats(-0.6, 0.6))
def test_a_tree_keeps_to_the_field_and_to_its_widths(seed: int, trunk: float, disc_x: float) -> None:
    """Every segment starts in the field, no vessel widens along its way, widths keep to their bounds."""
    style = TreeStyle(trunk_radius=trunk, fine_radius=trunk / 3, disc_xy=(disc_x, 0.1))
    tree = grow(np.random.default_rng(seed), style)
    assert np.hypot(*tree.start_S2.T).max() < 1.03
    assert (tree.end_radius_S <= tree.start_radius_S).all()
    assert tree.start_radius_S.max() <= trunk + 1e-6
    assert tree.start_radius_S.min() > 0.6 * style.fine_radius


def test_vessels_keep_clear_of_the_fovea() -> None:
    """In each tree a disk of the fovea's size, at its distance on the temporal side, holds no vessel."""
    tilts = np.linspace(-0.45, 0.45, 91)  # the axis from disc to fovea tilts a little from tree to tree
    for seed in range(12):
        style = TreeStyle(disc_xy=(-0.5, 0.0), fovea_distance=0.8, branch_rate=6.0, n_radial=20)
        tree = grow(np.random.default_rng(seed), style)
        centres = np.stack([-0.5 + 0.8 * np.cos(tilts), 0.8 * np.sin(tilts)], 1)
        free = np.hypot(*(tree.start_S2[:, None] - centres).transpose(2, 0, 1)).min(0)
        assert free.max() > 0.13


def test_distances_agree_with_a_brute_force_search() -> None:
    """The drawn distance is that to the nearest wall of any segment."""
    tree = tree_of((-0.5, -0.4, 0.6, 0.5, 0.06, True), (-0.3, 0.5, 0.4, -0.6, 0.03, False))
    frame = Frame.whole(64)
    y, x = np.mgrid[:64, :64].astype(float)
    nearest = np.full((64, 64), np.inf)
    for start, end, radius in zip(tree.start_S2, tree.end_S2, tree.start_radius_S, strict=True):
        a, b = (np.round((p * frame.radius_px + frame.centre_xy) * 64) / 64 for p in (start, end))
        points = np.linspace(a, b, 1000)
        gap = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).min(-1)
        nearest = np.minimum(nearest, gap - np.round(radius * frame.radius_px * 64) / 64)
    drawn = draw(tree, frame).distance_HW
    near = drawn < 2.5
    assert near.sum() > 500
    assert np.abs(drawn - nearest)[near].max() < 0.03


def test_major_distances_ignore_fine_vessels() -> None:
    """The major layer is what remains when fine vessels are taken out of the tree."""
    both = tree_of((-0.5, -0.4, 0.6, 0.5, 0.06, True), (-0.3, 0.5, 0.4, -0.6, 0.03, False))
    alone = tree_of((-0.5, -0.4, 0.6, 0.5, 0.06, True))
    frame = Frame.whole(64)
    assert np.array_equal(draw(both, frame).major_distance_HW, draw(alone, frame).distance_HW)
    assert (draw(both, frame).distance_HW < draw(alone, frame).distance_HW).any()


@pytest.mark.parametrize("angle", np.linspace(0, np.pi, 13))
def test_the_thinnest_line_stays_in_one_piece(angle: float) -> None:
    """A vessel far below a pixel's width is drawn 8-connected at every angle."""
    tip = 0.7 * np.array([np.cos(angle), np.sin(angle)])
    line = tree_of((-tip[0], -tip[1], tip[0], tip[1], 0.0005, False))
    mask = draw(line, Frame.whole(96)).distance_HW < 0
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1


def test_a_frame_that_shows_a_part_shows_the_same_tree() -> None:
    """A crop of a frame equals the frame of the crop."""
    tree = grow(np.random.default_rng(3), TreeStyle())
    whole = draw(tree, Frame(size=160, radius_px=90, centre_xy=(80.0, 80.0)))
    part = draw(tree, Frame(size=64, radius_px=90, centre_xy=(80.0 - 40, 80.0 - 50)))
    assert np.array_equal(whole.distance_HW[50:114, 40:104], part.distance_HW)
