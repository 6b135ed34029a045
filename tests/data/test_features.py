"""Features without the truth: they follow what they are named for, and nothing else."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, signal, special

from job.data import features
from job.data.features import (
    IMAGE_STATISTICS,
    MAX_STATISTICS,
    estimate_field,
    image_statistics,
    prompt_statistics,
    statistics_vector,
)
from job.data.fundus import sample


@pytest.fixture(scope="module")
def photograph() -> tuple[np.ndarray, np.ndarray]:
    """A synthetic photograph and its field of view."""
    made = sample(0, seed=5, size=192)
    return made.image_HWC, made.fov_HW


def test_names_and_plausible_values(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """All statistics are finite, in 0..1 but for sharpness, and come in the published order."""
    values = image_statistics(*photograph)
    assert tuple(values) == IMAGE_STATISTICS
    assert all(math.isfinite(v) and v >= 0 for v in values.values())
    assert all(v <= 1 for name, v in values.items() if name != "sharpness")


def test_channel_means_are_those_of_the_field(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """Means are of pixels inside the field alone, on a scale of 0..1."""
    image, fov = photograph
    values = image_statistics(image, fov)
    for channel, name in enumerate(("mean_red", "mean_green", "mean_blue")):
        assert values[name] == pytest.approx(image[..., channel][fov].mean() / 255, abs=1e-6)


def test_a_veil_lowers_contrast_alone(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """Mixing in half of a flat colour halves the contrast and leaves the sharpness."""
    image, fov = photograph
    hazy = np.round(0.5 * image + 0.5 * 110).astype(np.uint8)
    clear, veiled = image_statistics(image, fov), image_statistics(hazy, fov)
    assert veiled["contrast"] == pytest.approx(clear["contrast"] / 2, rel=0.02)
    assert veiled["sharpness"] == pytest.approx(clear["sharpness"], rel=0.02)


def test_blur_lowers_contrast_sharpness_and_noise(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """Each step of blur lowers all three."""
    image, fov = photograph
    rows = [
        image_statistics(ndimage.gaussian_filter(image, (sigma, sigma, 0)), fov) for sigma in (0, 0.7, 1.5, 3)
    ]
    for name in ("contrast", "sharpness", "noise"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("sigma", [2.0, 5.0, 12.0])
def test_noise_is_measured_in_levels(sigma: float) -> None:
    """On a smooth ground the estimate is the noise's own standard deviation."""
    ground = np.linspace(80, 160, 256)[None, :].repeat(256, 0)
    noisy = ground[..., None] + np.random.default_rng(0).normal(0, sigma, (256, 256, 3))
    values = image_statistics(np.round(noisy).astype(np.uint8), np.ones((256, 256), bool))
    assert values["noise"] * 255 == pytest.approx(math.hypot(sigma, 1 / math.sqrt(12)), rel=0.03)


def test_noise_is_immerkaers(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """The estimate is the published convolution, recomputed by scipy.signal on the whole frame."""
    image = photograph[0][60:130, 50:130]
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    answer = signal.convolve2d(image[..., 1] / 255, kernel, mode="valid")
    height, width = image.shape[:2]
    margin = math.ceil(math.sqrt(height * width) / 64)
    inner = np.abs(answer[margin - 1 : height - margin - 1, margin - 1 : width - margin - 1])
    expected = math.sqrt(math.pi / 2) / 6 * inner.mean()
    assert image_statistics(image, np.ones((height, width), bool))["noise"] == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("given", [True, False])
def test_a_black_frame_changes_nothing(photograph: tuple[np.ndarray, np.ndarray], given: bool) -> None:
    """Padding with black leaves every statistic, whether the field is given or estimated."""
    image, fov = photograph
    padded = np.pad(image, ((40, 90), (10, 130), (0, 0)))
    wide = np.pad(fov, ((40, 90), (10, 130)))
    before = image_statistics(image, fov if given else None)
    after = image_statistics(padded, wide if given else None)
    for name in IMAGE_STATISTICS:
        assert after[name] == pytest.approx(before[name], rel=1e-4 if given else 0.02)


def test_pixels_outside_of_the_field_do_not_count(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """Text or noise around the field changes nothing when the field is given."""
    image, fov = photograph
    scribbled = np.where(fov[..., None], image, np.random.default_rng(0).integers(0, 256, image.shape))
    assert image_statistics(scribbled.astype(np.uint8), fov) == image_statistics(image, fov)


def test_resolution_changes_little(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """The same photograph with four times the pixels has nearly the same contrast, sharpness and means."""
    image, fov = sample(3, seed=5, size=512).image_HWC, sample(3, seed=5, size=512).fov_HW
    image = ndimage.gaussian_filter(image, (2, 2, 0))
    small = np.array(Image.fromarray(image).resize((256, 256), Image.Resampling.BOX))
    large, half = image_statistics(image, fov), image_statistics(small, fov[::2, ::2])
    for name in ("contrast", "sharpness", "mean_red", "mean_green", "mean_blue"):
        assert half[name] == pytest.approx(large[name], rel=0.1)


def test_large_fields_are_averaged_down() -> None:
    """A field beyond 1,024 px is described at a whole fraction of its size, odd sides included."""
    image = np.kron(sample(1, seed=5, size=256).image_HWC, np.ones((5, 5, 1), np.uint8))
    odd = np.pad(image, ((0, 1), (0, 1), (0, 0)))
    fov = np.pad(np.kron(sample(1, seed=5, size=256).fov_HW, np.ones((5, 5), bool)), ((0, 1), (0, 1)))
    values = image_statistics(odd, fov)
    assert all(math.isfinite(v) for v in values.values())
    assert values["mean_red"] == pytest.approx(odd[..., 0][fov].mean() / 255, rel=0.01)


def test_the_field_is_found(photograph: tuple[np.ndarray, np.ndarray]) -> None:
    """The estimated field overlaps the true one with a Dice of at least 0.97."""
    image, fov = photograph
    found = estimate_field(image)
    assert 2 * (found & fov).sum() / (found.sum() + fov.sum()) >= 0.97


@pytest.mark.parametrize("level", [0, 255])
def test_pictures_of_one_colour(level: int) -> None:
    """A flat picture has no contrast, sharpness or noise, and no statistic is NaN."""
    values = image_statistics(np.full((70, 90, 3), level, np.uint8))
    assert [values[name] for name in ("contrast", "sharpness", "noise")] == pytest.approx([0, 0, 0], abs=1e-6)
    assert values["mean_green"] == pytest.approx(level / 255)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 3), (1, 40)])
def test_tiny_pictures(shape: tuple[int, int]) -> None:
    """Even a single pixel gets finite statistics; an empty field is estimated instead."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    values = image_statistics(image, np.zeros(shape, bool))
    assert all(math.isfinite(v) for v in values.values())


def test_prompt_statistics_are_share_and_confidence() -> None:
    """Share and confidence agree with scipy's logistic function on the float16 logits."""
    logits = np.random.default_rng(0).normal(-1, 3, (4, 30, 20)).astype(np.float16)
    logits[3] = -5
    found = prompt_statistics(logits)
    probabilities = special.expit(logits.astype(np.float64))
    for p in range(3):
        foreground = probabilities[p] > 0.5
        assert found[p, 0] == pytest.approx(foreground.mean())
        assert found[p, 1] == pytest.approx(probabilities[p][foreground].mean())
    np.testing.assert_array_equal(found[3], [0, 0.5])
    assert found.dtype == np.float32


def test_infinite_logits_are_certain_and_nan_is_refused() -> None:
    """Logits that overflow float16 mean certainty; NaN is a defect of the segmenter."""
    logits = np.array([[[np.inf, -np.inf]]], np.float16)
    np.testing.assert_array_equal(prompt_statistics(logits), [[0.5, 1.0]])
    with pytest.raises(ValueError, match="prompt 0"):
        prompt_statistics(np.array([[[np.nan]]], np.float16))


@pytest.mark.parametrize(("n_prompts", "n_statistics"), [(1, 8), (6, 18), (21, 48), (30, 48)])
def test_the_vector_is_bounded(
    photograph: tuple[np.ndarray, np.ndarray], n_prompts: int, n_statistics: int
) -> None:
    """Later prompts are left out so that the vector keeps within its limit; names are unique and in order."""
    logits = np.random.default_rng(1).normal(0, 2, (n_prompts, 16, 16)).astype(np.float16)
    names, values = statistics_vector(*photograph, logits)
    assert len(names) == len(set(names)) == len(values) == n_statistics <= MAX_STATISTICS
    assert names[:6] == IMAGE_STATISTICS
    assert names[6:8] == ("prompt_0_share", "prompt_0_confidence")
    assert values[6] == pytest.approx((logits[0] > 0).mean())
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, statistics_vector(*photograph, logits)[1])


@pytest.mark.parametrize("size", [(1100, 1300), (2050, 2060), (2601, 1507)])
def test_a_large_picture_is_averaged_a_few_rows_at_a_time(size: tuple[int, int]) -> None:
    """The numbers are, bit for bit, those of the whole picture averaged at once."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    field = np.ones(size, bool)
    factor = -(-int(np.sqrt(field.sum()) * 1e6) // (1024 * 1_000_000))
    h, w = size[0] // factor, size[1] // factor
    whole = image.astype(np.float32)[: h * factor, : w * factor] / np.float32(255)
    expected = whole.reshape(h, factor, w, factor, 3).mean(axis=(1, 3))
    reduced, field_hw = features._reduced(image, field)
    np.testing.assert_array_equal(reduced, expected)
    assert field_hw.shape == (h, w)
