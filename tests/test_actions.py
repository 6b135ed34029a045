import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, special
from skimage import filters, morphology

from job.actions import Action, ActionSpace, PostProcess, apply, apply_all, iter_masks, resize_bilinear

EIGHT = np.ones((3, 3), bool)

POSTPROCESS = (
    PostProcess(),
    PostProcess(0.3),
    PostProcess(0.85),
    PostProcess(0.5, low=0.25),
    PostProcess(0.8, low=0.4, min_area=12),
    PostProcess(0.5, min_area=30, closing_radius=1),
    PostProcess(0.7, low=0.5, closing_radius=3),
    PostProcess(0.7, min_area=20),
)
SPACE = ActionSpace(("all vessels", "major vessels", "fine vessels"), POSTPROCESS)


def _logits(rng, *shape):
    """Smooth random logits with components of many sizes."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, 1.5, 1.5))
    return (4 * noise / noise.std()).astype(np.float16)


def _one(postprocess, logits_HW, size=None):
    """Apply one post-processing to the logits of one prompt."""
    return apply(ActionSpace(("p",), (postprocess,)), 0, logits_HW[None], size or logits_HW.shape)


# -- the space --


def test_actions_are_numbered_prompt_by_prompt():
    """k = p * Q + q, both ways, and action 0 is the first prompt with the first post-processing."""
    assert len(SPACE) == len(list(SPACE)) == 24
    assert SPACE[0] == Action("all vessels", PostProcess())
    for k, action in enumerate(SPACE):
        p, q = SPACE.prompt_of(k), SPACE.postprocess_of(k)
        assert k == SPACE.index(p, q) == p * 8 + q
        assert action == SPACE[k] == Action(SPACE.prompts[p], SPACE.postprocess[q])


@pytest.mark.parametrize("k", [-1, 24])
def test_an_action_outside_the_space_is_an_error(k):
    """Neither -1 nor K wraps round to some other action."""
    with pytest.raises(IndexError, match="3 prompts x 8 post-processings"):
        SPACE[k]
    with pytest.raises(IndexError):
        apply(SPACE, k, np.zeros((3, 4, 4), np.float16), (4, 4))
    with pytest.raises(IndexError):
        SPACE.index(0, 8)


def test_labels_name_what_differs_from_a_plain_threshold():
    """People read the prompt and only the steps that are switched on."""
    plain = Action("Segment the major vessels", PostProcess())
    assert plain.label == "'Segment the major vessels' | t 0.5"
    full = Action("Segment the major vessels", PostProcess(0.5, 0.3, min_area=30, closing_radius=2))
    assert full.label == "'Segment the major vessels' | t 0.5, hysteresis 0.3, closing 2, area>=30"


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": float("nan")},
        {"low": 0.5},
        {"low": 0.0},
        {"min_area": -1},
        {"closing_radius": -1},
    ],
)
def test_impossible_post_processing_is_refused(values):
    """Thresholds outside (0, 1), a low not below the threshold and negative sizes raise."""
    with pytest.raises(ValueError):
        PostProcess(**values)


def test_an_empty_space_is_refused():
    """Without a prompt or a post-processing there is no no-op."""
    with pytest.raises(ValueError, match="at least one"):
        ActionSpace((), POSTPROCESS)
    with pytest.raises(ValueError, match="at least one"):
        ActionSpace(("p",), ())


# -- one way to act --


@pytest.mark.parametrize("size", [(40, 56), (97, 61), (23, 130)])
def test_apply_all_equals_apply_bit_for_bit(size):
    """Sharing the resize and the labels changes no bit, at the logits' own size and at others."""
    logits_PHW = _logits(np.random.default_rng(1), 3, 40, 56)
    masks_KHW = apply_all(SPACE, logits_PHW, size)
    assert masks_KHW.shape == (24, *size)
    assert masks_KHW.dtype == np.bool_
    for k in range(24):
        np.testing.assert_array_equal(apply(SPACE, k, logits_PHW, size), masks_KHW[k])
    assert len({mask.tobytes() for mask in masks_KHW}) == 24


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 100])
def test_blocks_of_any_size_are_the_masks_of_apply_all(at_once):
    """In order, of whole prompts or parts of one, none larger than asked for, as few as that allows."""
    logits_PHW = np.random.default_rng(0).normal(size=(len(SPACE.prompts), 9, 11)).astype(np.float16)
    blocks = list(iter_masks(SPACE, logits_PHW, (13, 17), at_once))
    assert [action for actions, _ in blocks for action in actions] == list(range(len(SPACE)))
    assert [len(actions) for actions, _ in blocks] == [len(masks_BHW) for _, masks_BHW in blocks]
    n = len(SPACE.postprocess)
    prompts = max(1, at_once // n)
    assert len(blocks) == -(-len(SPACE.prompts) // prompts) * (1 if at_once >= n else -(-n // at_once))
    assert max(len(actions) for actions, _ in blocks) <= at_once
    masks_KHW = np.concatenate([masks_BHW for _, masks_BHW in blocks])
    np.testing.assert_array_equal(masks_KHW, apply_all(SPACE, logits_PHW, (13, 17)))


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float16, (2, 5, 6), elements=st.floats(-8, 8, width=16)))
def test_the_no_op_is_a_positive_logit(logits_PHW):
    """Action 0 with threshold 0.5 is logit > 0, strictly, and the logits are left as they were."""
    space, before = ActionSpace(("a", "b"), POSTPROCESS), logits_PHW.copy()
    np.testing.assert_array_equal(apply(space, 0, logits_PHW, (5, 6)), logits_PHW[0] > 0)
    np.testing.assert_array_equal(logits_PHW, before)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_threshold_is_a_probability(threshold, seed):
    """Comparing logits is comparing their sigmoid, in double precision, with the threshold."""
    logits_HW = _logits(np.random.default_rng(seed), 1, 12, 12)[0]
    expected = special.expit(logits_HW.astype(np.float64)) > threshold
    close = np.isclose(special.expit(logits_HW.astype(np.float64)), threshold, rtol=1e-6)
    assert ((_one(PostProcess(threshold), logits_HW) == expected) | close).all()


def test_logits_must_come_rounded():
    """Any other dtype raises: a path that forgot to round would give other masks than the table."""
    for dtype in (np.float32, np.float64):
        with pytest.raises(ValueError, match="rounds logits to float16"):
            apply_all(SPACE, np.zeros((3, 4, 4), dtype), (4, 4))


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 4, 4), (4, 4)), ((4, 4), (4, 4)), ((3, 4, 4), (0, 4)), ((3, 0, 4), (4, 4))]
)
def test_unfit_shapes_are_refused(shape, size):
    """A missing prompt, a lost axis and an image without pixels raise."""
    with pytest.raises(ValueError):
        apply(SPACE, 0, np.zeros(shape, np.float16), size)


def test_nan_is_refused_and_infinity_is_merely_sure():
    """NaN raises, naming the prompt; infinite logits stay foreground or background through a resize."""
    logits_PHW = np.full((3, 4, 4), -np.inf, np.float16)
    logits_PHW[1, :, 2:] = np.inf
    mask_HW = apply(SPACE, SPACE.index(1, 0), logits_PHW, (8, 8))
    np.testing.assert_array_equal(mask_HW, np.tile(np.arange(8) >= 4, (8, 1)))
    logits_PHW[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="prompt 1 contain NaN"):
        apply_all(SPACE, logits_PHW, (4, 4))


# -- resize --


@pytest.mark.parametrize("size", [(33, 47), (33, 20), (66, 94), (7, 47), (100, 9), (1, 1)])
def test_resize_equals_torch(size):
    """Bilinear resizing is torch's with align_corners=False and no antialiasing, up and down."""
    logits_HW = _logits(np.random.default_rng(2), 1, 33, 47)[0].astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits_HW)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    got = resize_bilinear(logits_HW, size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("size", [(33, 47), (90, 61), (20, 200), (132, 188)])
def test_resize_by_way_of_another_size_equals_torch_twice(size):
    """Axis by axis all the way gives what resizing the whole map twice gives, which is not one resize."""
    logits_HW = _logits(np.random.default_rng(3), 1, 33, 47)[0].astype(np.float32)
    expected = torch.from_numpy(logits_HW)[None, None]
    for target in ((132, 188), size):
        expected = torch.nn.functional.interpolate(
            expected, size=target, mode="bilinear", align_corners=False
        )
    got = resize_bilinear(logits_HW, size, by_way_of=(132, 188))
    assert got.shape == size
    np.testing.assert_allclose(got, expected[0, 0].numpy(), atol=2e-4)
    if size != (132, 188):
        assert np.abs(resize_bilinear(logits_HW, size) - got).max() > 0.01


def test_masks_take_the_way_of_their_space():
    """`apply` and `apply_all` threshold logits that went by way of the size which the space names."""
    space = ActionSpace(("p",), POSTPROCESS[:3], by_way_of=(132, 188))
    logits_PHW = _logits(np.random.default_rng(4), 1, 33, 47)
    surface_HW = resize_bilinear(logits_PHW[0].astype(np.float32), (50, 70), by_way_of=(132, 188))
    masks_KHW = apply_all(space, logits_PHW, (50, 70))
    for k, postprocess in enumerate(space.postprocess):
        expected_HW = surface_HW > special.logit(postprocess.threshold)
        np.testing.assert_array_equal(masks_KHW[k], expected_HW)
        np.testing.assert_array_equal(apply(space, k, logits_PHW, (50, 70)), expected_HW)


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=16)
    ),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_resize_stays_within_the_values_it_had(logits_HW, size):
    """Interpolation neither over- nor undershoots, and keeps a constant map bit for bit."""
    resized = resize_bilinear(logits_HW, size)
    assert resized.shape == size
    assert resized.min() >= logits_HW.min() - 1e-5
    assert resized.max() <= logits_HW.max() + 1e-5
    constant = np.full_like(logits_HW, logits_HW[0, 0])
    assert (resize_bilinear(constant, size) == logits_HW[0, 0]).all()


def test_masks_are_thresholded_after_the_resize():
    """The mask follows the interpolated logits and not the nearest pixel."""
    logits_HW = np.array([[-1.0, 3.0]], np.float16)
    assert _one(PostProcess(), logits_HW, (1, 8)).tolist() == [[False] * 3 + [True] * 5]


# -- post-processing --


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_hysteresis_equals_reconstruction_and_contains_scikit_image_s(seed):
    """Hysteresis is 8-connected reconstruction; scikit-image's own, 4-connected, keeps no more."""
    logits_HW = _logits(np.random.default_rng(seed), 1, 24, 24)[0]
    probabilities = special.expit(logits_HW.astype(np.float64))
    got = _one(PostProcess(0.9, low=0.4), logits_HW)
    seeds = (probabilities > 0.9).astype(np.uint8)
    expected = morphology.reconstruction(seeds, (probabilities > 0.4).astype(np.uint8), footprint=EIGHT)
    np.testing.assert_array_equal(got, expected.astype(bool))
    assert (got >= filters.apply_hysteresis_threshold(probabilities, 0.4, 0.9)).all()


def test_hysteresis_follows_diagonals():
    """A weak pixel that touches a strong one at a corner stays; a weak pixel alone goes."""
    logits_HW = np.full((5, 5), -9, np.float16)
    logits_HW[0, 0], logits_HW[1, 1], logits_HW[4, 4] = 5, 0.1, 0.1
    mask_HW = _one(PostProcess(0.9, low=0.4), logits_HW)
    assert np.argwhere(mask_HW).tolist() == [[0, 0], [1, 1]]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from([None, 0.3]))
def test_min_area_equals_area_opening(seed, min_area, low):
    """Dropping smaller 8-connected components is scikit-image's area opening, after hysteresis too."""
    logits_HW = _logits(np.random.default_rng(seed), 1, 24, 24)[0]
    before = _one(PostProcess(0.6, low=low), logits_HW).astype(np.uint8)
    expected = morphology.area_opening(before, area_threshold=max(min_area, 1), connectivity=2)
    np.testing.assert_array_equal(
        _one(PostProcess(0.6, low=low, min_area=min_area), logits_HW), expected == 1
    )


def test_a_component_of_exactly_min_area_stays():
    """The limit itself is kept: smaller means fewer pixels."""
    logits_HW = np.where(np.arange(8) < 3, np.float16(1), np.float16(-1))[None]
    assert _one(PostProcess(min_area=3), logits_HW).sum() == 3
    assert _one(PostProcess(min_area=4), logits_HW).sum() == 0


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 16), st.integers(1, 16))),
    st.integers(1, 6),
)
def test_closing_equals_scikit_image_on_a_padded_image(mask_HW, radius):
    """Closing is scikit-image's with the same disk on an image padded so wide that it has no border."""
    logits_HW = np.where(mask_HW, np.float16(2), np.float16(-2))
    padded = np.pad(mask_HW.astype(np.uint8), 2 * radius + 1)
    closed = morphology.closing(padded, morphology.disk(radius))
    expected = closed[2 * radius + 1 : -2 * radius - 1, 2 * radius + 1 : -2 * radius - 1] == 1
    got = _one(PostProcess(closing_radius=radius), logits_HW)
    np.testing.assert_array_equal(got, expected)
    assert (got >= mask_HW).all()


def test_closing_comes_before_the_area_is_measured():
    """Two bars that closing joins are one component, large enough to stay."""
    logits_HW = np.full((5, 7), -1, np.float16)
    logits_HW[1:4, [1, 2, 4, 5]] = 1
    assert _one(PostProcess(min_area=7), logits_HW).sum() == 0
    assert _one(PostProcess(min_area=7, closing_radius=1), logits_HW).sum() == 13


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("postprocess", POSTPROCESS, ids=lambda p: p.label)
def test_empty_and_full_masks_pass_through(postprocess, sign):
    """No step invents foreground in an empty mask or eats into a full one."""
    mask_HW = _one(postprocess, np.full((9, 11), 20 * sign, np.float16))
    assert mask_HW.all() if sign > 0 else not mask_HW.any()


def test_no_heavy_library_is_imported():
    """Masks are made in processes that never load torch or scikit-image."""
    code = "import sys, job.actions; print(*({'torch', 'skimage', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
