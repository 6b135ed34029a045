"""Drift: new images against known ones, as the champion sees them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from job.errors import IntegrityError
from job.evaluation.drift import (
    LARGEST_SHIFT_SD,
    UNKNOWN,
    Profile,
    measure_drift,
    noticeable_fall,
    noticeable_shift,
)
from job.metrics.statistics import Interval, t_interval
from job.storage.tensor_file import read_tensors, write_tensors

NAMES = ("contrast", "sharpness", "noise")


def profile(n: int, *, first: int = 0, seed: int = 0, shift: float = 0.0, dice: float = 0.8) -> Profile:
    """N images, a patient each, numbered from `first`; `shift` moves the sharpness by so many sd."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal([0.1, 2.0, 0.01], [0.02, 0.3, 0.002], (n, 3))
    statistics[:, 1] += 0.3 * shift
    return Profile(
        pixels=tuple(f"image{first + i}" for i in range(n)),
        splits=("train",) * n,
        patients=tuple(f"patient{first + i}" for i in range(n)),
        statistic_names=NAMES,
        labels=("a", "b", "c"),
        statistics_NS=statistics.astype(np.float32),
        actions_N=rng.integers(0, 3, n),
        dice_N=rng.normal(dice, 0.02, n),
    )


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    """Every part, and the digest; NaN and all."""
    before = profile(5)
    before.dice_N[2] = np.nan
    before.save(tmp_path / "profile.safetensors")
    after = Profile.load(tmp_path / "profile.safetensors")
    assert (after.pixels, after.splits, after.patients) == (before.pixels, before.splits, before.patients)
    assert (after.statistic_names, after.labels) == (NAMES, ("a", "b", "c"))
    np.testing.assert_array_equal(after.dice_N, before.dice_N)
    np.testing.assert_array_equal(after.statistics_NS, before.statistics_NS)
    assert after.digest() == before.digest() != profile(5).digest()


@pytest.mark.parametrize("part", ["dice", "actions"])
def test_a_profile_without_a_part_or_with_parts_of_other_images_is_refused(tmp_path: Path, part: str) -> None:
    """Rather than compared."""
    path = tmp_path / "profile.safetensors"
    profile(5).save(path)
    tensors, facts = read_tensors(path)
    write_tensors(path, {**tensors, part: tensors[part][:3]}, facts)
    with pytest.raises(IntegrityError, match="not of the same images"):
        Profile.load(path)
    del tensors[part]
    write_tensors(path, tensors, facts)
    with pytest.raises(IntegrityError, match="a part is missing"):
        Profile.load(path)


def test_shifts_are_differences_of_means_in_sd_of_the_known() -> None:
    """Recomputed; the largest stands first."""
    known, new = profile(40), profile(12, first=40, seed=1, shift=1.0)
    found = measure_drift(known, new)
    assert (found.known_images, found.new_images) == (40, 12)
    wanted = {}
    for i, name in enumerate(NAMES):
        a, b = known.statistics_NS[:, i].astype(float), new.statistics_NS[:, i].astype(float)
        wanted[name] = (a.mean(), b.mean(), (b.mean() - a.mean()) / np.std(a, ddof=1))
    for statistic in found.statistics:
        got = (statistic.mean_known, statistic.mean_new, statistic.shift)
        assert got == pytest.approx(wanted[statistic.name], rel=1e-6)
    sizes = [abs(statistic.shift) for statistic in found.statistics]
    assert sizes == sorted(sizes, reverse=True)
    assert found.statistics[0].name == "sharpness"
    assert found.sentence.startswith("12 new images: like the known ones (largest shift")


def test_actions_and_dice_are_counted_where_they_are_known() -> None:
    """Images that nothing was chosen for, or that have no truth, do not count."""
    known, new = profile(6), profile(4, first=6, seed=1)
    known = replace(
        known,
        actions_N=np.array([UNKNOWN, UNKNOWN, 0, 0, 2, 0]),
        dice_N=np.array([np.nan, np.nan, 0.7, 0.8, 0.9, np.nan]),
        patients=("p", "p", "q", "q", "r", "r"),
    )
    new = replace(new, dice_N=np.full(4, np.nan))
    found = measure_drift(known, new)
    assert found.actions_known == [0.75, 0.0, 0.25]
    assert sum(found.actions_new) == pytest.approx(1)
    assert found.champion_dice_known == t_interval([0.75, 0.9])
    assert found.champion_dice_new is None
    assert "none of them is annotated" in found.sentence


def test_nothing_new_is_said() -> None:
    """Without new images there is nothing to measure."""
    found = measure_drift(profile(6), profile(0, first=6))
    assert (found.new_images, found.statistics, found.actions_new) == (0, [], [])
    assert found.champion_dice_new is None
    assert found.sentence == "No image is new since the champion was made."


def test_another_camera_is_warned_of() -> None:
    """A shift of three standard deviations in a dozen images."""
    found = measure_drift(profile(40), profile(12, first=40, seed=1, shift=3.0))
    assert found.sentence.startswith("Warning: 12 new images: unlike the known ones (sharpness +")


def test_a_fall_of_the_champion_is_warned_of() -> None:
    """Beyond what chance explains, and in that direction alone."""
    known = profile(40)
    worse = measure_drift(known, profile(10, first=40, seed=1, dice=0.7)).sentence
    assert worse.startswith("Warning: 10 new images: like the known ones")
    assert "on 10 new annotated images of 10 patients against 0.799" in worse
    assert worse.endswith("a fall beyond chance.")
    assert "Warning" not in measure_drift(known, profile(10, first=40, seed=1, dice=0.9)).sentence


@pytest.mark.parametrize("n_new", [1, 3, 12])
def test_new_images_of_the_known_kind_hardly_ever_raise_an_alarm(n_new: int) -> None:
    """At most 5 % of 200 nights, for a single new image as for a dozen."""
    alarms = 0
    for seed in range(200):
        both = profile(40 + n_new, seed=seed)
        known, new = _rows(both, slice(0, 40)), _rows(both, slice(40, None))
        alarms += measure_drift(known, new).sentence.startswith("Warning")
    assert alarms <= 10


def test_the_thresholds_are_those_of_their_distributions() -> None:
    """Many patients: two sd. One: Bonferroni's normal quantile. A fall: the prediction interval of t."""
    assert noticeable_shift(100, 50, 18) == LARGEST_SHIFT_SD
    wanted = stats.norm.isf(0.005 / 18) * np.sqrt(1 + 1 / 10)
    assert noticeable_shift(10, 1, 18) == pytest.approx(wanted)
    dice = np.random.default_rng(0).normal(0.8, 0.02, 9)
    wanted = stats.t.ppf(0.975, 8) * dice.std(ddof=1) * np.sqrt(1 / 9 + 1 / 4)
    assert noticeable_fall(t_interval(dice), 4) == pytest.approx(wanted)
    assert noticeable_fall(Interval(0.8, -np.inf, np.inf, 1), 4) == np.inf


def test_a_statistic_that_never_varied_has_a_large_and_finite_shift() -> None:
    """JSON and charts have no use for infinities; rounding of what is equal is no shift."""
    known, new = profile(6), profile(4, first=6, seed=1)
    known.statistics_NS[:, 0] = new.statistics_NS[:, 0] = 0.5
    new.statistics_NS[:, 0] += 1e-7
    assert abs(next(s for s in measure_drift(known, new).statistics if s.name == "contrast").shift) < 0.01
    new.statistics_NS[:, 0] = 0.9
    largest = measure_drift(known, new).statistics[0]
    assert largest.name == "contrast"
    assert 100 < largest.shift < np.inf


def test_statistics_that_one_side_lacks_are_left_out() -> None:
    """A later version of the program may know more of them."""
    known = profile(6)
    new = replace(profile(4, first=6), statistic_names=("contrast", "noise", "glare"))
    assert {s.name for s in measure_drift(known, new).statistics} == {"contrast", "noise"}


def test_profiles_that_cannot_be_compared_are_refused() -> None:
    """Known images among the new ones, or another list of actions."""
    with pytest.raises(ValueError, match="not new"):
        measure_drift(profile(6), profile(4, first=5))
    with pytest.raises(ValueError, match="same actions"):
        measure_drift(profile(6), replace(profile(4, first=6), labels=("a",)))


def _rows(of: Profile, rows: slice) -> Profile:
    return replace(
        of,
        pixels=of.pixels[rows],
        splits=of.splits[rows],
        patients=of.patients[rows],
        statistics_NS=of.statistics_NS[rows],
        actions_N=of.actions_N[rows],
        dice_N=of.dice_N[rows],
    )
