"""Masks and counts of an accelerator's way are those of numpy's, bit for bit; here on torch's CPU device."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from job import masks_on_device
from job.actions import ActionSpace, PostProcess, apply_all, resize_bilinear
from job.data.fundus import sample as photograph
from job.masks_on_device import measure
from job.metrics.overlap import confusion

POSTPROCESS = (
    PostProcess(),
    PostProcess(0.3),
    PostProcess(0.85),
    PostProcess(0.5, low=0.25),
    PostProcess(0.8, low=0.4, min_area=9),
    PostProcess(0.5, min_area=30, closing_radius=1),
    PostProcess(0.6, closing_radius=3),
    PostProcess(0.55, low=0.3, min_area=12, closing_radius=2),
    PostProcess(0.7, min_area=6),
    PostProcess(0.5, min_area=1),
)


def noise(shape: tuple[int, ...], seed: int, coarse: int = 3) -> NDArray[np.float16]:
    """Smooth blobs and grain, of logits about 0."""
    rng = np.random.default_rng(seed)
    blobs = np.kron(rng.normal(0, 2, (shape[0], -(-shape[1] // coarse), -(-shape[2] // coarse))),
                    np.ones((1, coarse, coarse)))[:, : shape[1], : shape[2]]  # fmt: skip
    return (blobs + rng.normal(0, 0.7, shape)).astype(np.float16)


def require_equal(
    space: ActionSpace, logits: NDArray[np.float16], size: tuple[int, int], stride: int = 2
) -> None:
    truth = np.random.default_rng(9).random(size) < 0.3
    # Beside another image, which must not matter.
    other, found = measure(
        space, [logits[::-1], logits], size, [~truth, truth], stride=stride, whole=True, device="cpu"
    )
    assert other.counts is not None
    np.testing.assert_array_equal(other.counts.tp, confusion(apply_all(space, logits[::-1], size), ~truth).tp)
    masks_KHW = apply_all(space, logits, size)
    n_pixels = size[0] * size[1]
    assert found.masks_KX is not None
    whole = np.unpackbits(found.masks_KX, axis=1, count=n_pixels).reshape(masks_KHW.shape)
    np.testing.assert_array_equal(whole.astype(bool), masks_KHW)
    sampled = masks_KHW[:, ::stride, ::stride].reshape(len(space), -1)
    np.testing.assert_array_equal(found.sampled_KX, np.packbits(sampled, axis=1))
    wanted = confusion(masks_KHW, truth)
    assert found.counts is not None
    for name in ("tp", "fp", "fn", "tn"):
        counted = getattr(found.counts, name)
        assert counted.dtype == np.int64
        np.testing.assert_array_equal(counted, getattr(wanted, name))
    for p, logits_HW in enumerate(logits):
        clipped = np.clip(logits_HW.astype(np.float32), -65504, 65504)
        surface = resize_bilinear(clipped, size, space.by_way_of)[::stride, ::stride].ravel()
        assert surface.tobytes() == found.surfaces_PX[p].tobytes()


@pytest.mark.parametrize("by_way_of", [None, (40, 40)])
@pytest.mark.parametrize("size", [(33, 47), (16, 16), (64, 20), (5, 90)])
def test_all_masks_counts_and_surfaces_are_those_of_the_cpu(
    size: tuple[int, int], by_way_of: tuple[int, int] | None
) -> None:
    """Every post-processing, resized or not, also by way of another size."""
    space = ActionSpace(("a", "b", "c"), POSTPROCESS, by_way_of)
    require_equal(space, noise((3, 16, 16), seed=1), size)
    require_equal(space, noise((3, 70, 61), seed=2), size, stride=3)


def test_a_photographs_masks_are_equal() -> None:
    """Of the size and shapes that there are: long thin components."""
    truth = photograph(0, seed=0, size=192).mask_HW
    rng = np.random.default_rng(0)
    logits = (truth * 6.0 - 3 + rng.normal(0, 1.5, (4, *truth.shape))).astype(np.float16)
    space = ActionSpace(("a", "b", "c", "d"), POSTPROCESS)
    require_equal(space, logits, truth.shape)
    require_equal(space, logits[:, ::3, ::3], (192, 192))


@given(
    seed=st.integers(0, 2**32 - 1), height=st.integers(1, 24), width=st.integers(1, 24),
    share=st.floats(0.05, 0.95),
)  # fmt: skip
def test_components_are_those_of_scipy(seed: int, height: int, width: int, share: float) -> None:
    """Of noise of every density, images of one row and one column among them."""
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((2, height, width)) < share, 1.0, -1.0) + rng.normal(
        0, 0.6, (2, height, width)
    )
    space = ActionSpace(("a", "b"), (PostProcess(0.8, low=0.4, min_area=4), PostProcess(0.5, min_area=3)))
    require_equal(space, logits.astype(np.float16), (height, width), stride=1)


@pytest.mark.parametrize("length", [40, 120])
def test_a_component_that_winds_through_the_image_is_one(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """In a number of passes that hardly grows with its length."""
    snake = np.full((1, length, length), -4.0)
    snake[0, ::2] = 4
    for row, (_, _) in enumerate(pairwise(range(0, length, 2))):
        snake[0, 2 * row + 1, -1 if row % 2 == 0 else 0] = 4
    passes = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda *two: passes.append(1) or equal(*two))
    area = int((snake > 0).sum())
    space = ActionSpace(("a",), (PostProcess(min_area=area), PostProcess(min_area=area + 1)))
    (found,) = measure(
        space,
        [snake.astype(np.float16)],
        snake.shape[1:],
        [snake[0] > 0],
        stride=1,
        whole=False,
        device="cpu",
    )
    assert found.counts is not None
    assert list(found.counts.tp) == [area, 0]
    assert len(passes) < 14


@pytest.mark.parametrize("value", [-np.inf, np.inf, -65504, 65504, 0])
def test_extreme_logits_are_masks_too(value: float) -> None:
    """All or nothing, and infinities that rounding to float16 makes."""
    space = ActionSpace(("a", "b"), POSTPROCESS)
    logits = noise((2, 12, 12), seed=3)
    logits[0] = value
    require_equal(space, logits, (20, 20))
    logits[1, 3, 4] = -value
    require_equal(space, logits, (20, 20))


def test_prompts_may_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory is short; nothing changes."""
    monkeypatch.setattr(masks_on_device, "BYTES_AT_ONCE", 1)
    require_equal(ActionSpace(("a", "b", "c"), POSTPROCESS), noise((3, 16, 16), seed=4), (30, 20))


def test_without_a_truth_nothing_is_counted_and_no_mask_handed_over() -> None:
    """Unlabelled images have rows too; whole masks are for topology alone."""
    space = ActionSpace(("a",), POSTPROCESS)
    (found,) = measure(space, [noise((1, 8, 8), seed=5)], (8, 8), [None], stride=1, whole=False, device="cpu")
    assert found.counts is None
    assert found.masks_KX is None
    assert found.n_bytes == found.sampled_KX.nbytes + found.surfaces_PX.nbytes


def test_logits_that_are_none_are_refused() -> None:
    """As on the CPU; and torch is as deterministic as it was."""
    space = ActionSpace(("a",), POSTPROCESS)
    broken = noise((1, 8, 8), seed=6)
    broken[0, 2, 2] = np.nan
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(ValueError, match="NaN"):
            measure(space, [broken], (8, 8), [None], stride=1, whole=False, device="cpu")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(ValueError, match="float16"):
        measure(space, [broken.astype(np.float32)], (8, 8), [None], stride=1, whole=False, device="cpu")  # type: ignore[list-item]
