"""Drift: what is new since the champion was made, as the champion sees it.

Every run leaves a profile of its images: their pixels' digests, their statistics, and what its candidate
does with them. Tonight's new images, seen through the champion's own segmenter and prompts, make another one,
and the two are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from job.errors import IntegrityError
from job.metrics.statistics import Interval, patient_interval
from job.publish.training_info import Drift, DriftStatistic
from job.storage.digests import tensors_digest
from job.storage.tensor_file import read_tensors, write_tensors

PROFILE = "profile.safetensors"
UNKNOWN = -1
"""Action of an image that nothing was chosen for."""
LARGEST_SHIFT_SD = 2.0
"""A shift of an image statistic beyond it is worth a warning."""
FALSE_ALARMS = 0.01
"""Share of nights on which new images of the known kind may shift beyond the threshold, when they are few."""
SHOWN = 3
WARNING = "Warning: "
"""How the sentence begins where somebody should look."""


@dataclass(frozen=True)
class Profile:
    """N images as a candidate sees them.

    `pixels` are sha256 digests of the decoded pixels at the candidate's width, `statistics_NS` float32 and
    named, `actions_N` int64 what it chose (`UNKNOWN` where it was not asked), `dice_N` float64 what that
    scored on an annotated image that it did not learn from (NaN elsewhere); `labels` name its actions.
    """

    pixels: tuple[str, ...]
    splits: tuple[str, ...]
    patients: tuple[str, ...]
    statistic_names: tuple[str, ...]
    labels: tuple[str, ...]
    statistics_NS: NDArray[np.float32]
    actions_N: NDArray[np.int64]
    dice_N: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        write_tensors(path, self._tensors(), self._facts())

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Read what `save` wrote; raises `IntegrityError` for a damaged file."""
        tensors, facts = read_tensors(path)
        texts = ("pixels", "splits", "patients", "statistic_names", "labels")
        try:
            profile = cls(
                **{name: tuple(facts[name]) for name in texts},
                statistics_NS=tensors["statistics"],
                actions_N=tensors["actions"],
                dice_N=tensors["dice"],
            )
        except (KeyError, TypeError) as error:
            raise _damaged(path, f"a part is missing: {error}") from error
        n = len(profile.pixels)
        rows = (profile.splits, profile.patients, profile.actions_N, profile.dice_N)
        is_whole = profile.statistics_NS.shape == (n, len(profile.statistic_names))
        if not is_whole or any(len(values) != n for values in rows):
            raise _damaged(path, "its parts are not of the same images")
        return profile

    def digest(self) -> str:
        """Return a sha256 over everything."""
        return tensors_digest(self._tensors(), self._facts())

    def dice(self, confidence: float) -> Interval | None:
        """Return the mean Dice over patients where there is one, None without any."""
        has_dice = np.flatnonzero(~np.isnan(self.dice_N))
        if not len(has_dice):
            return None
        return patient_interval(self.dice_N[has_dice], [self.patients[i] for i in has_dice], confidence)

    def action_shares(self) -> list[float]:
        """Return the share of images under each action, among those that were asked for; empty for none."""
        asked = self.actions_N[self.actions_N != UNKNOWN]
        if not len(asked):
            return []
        return [float(share) for share in np.bincount(asked, minlength=len(self.labels)) / len(asked)]

    def named(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the named statistics `[N, S]`."""
        return self.statistics_NS[:, [self.statistic_names.index(name) for name in names]].astype(np.float64)

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        return {"statistics": self.statistics_NS, "actions": self.actions_N, "dice": self.dice_N}

    def _facts(self) -> dict[str, Sequence[str]]:
        return {
            "pixels": self.pixels,
            "splits": self.splits,
            "patients": self.patients,
            "statistic_names": self.statistic_names,
            "labels": self.labels,
        }


def measure_drift(known: Profile, new: Profile, confidence: float = 0.95) -> Drift:
    """Compare the images that a champion's run had with those that are new, both as the champion sees them.

    `new` holds none of the known images and has the same actions: ValueError otherwise. Statistics are
    compared where both have them, by name.
    """
    if known.labels != new.labels:
        raise ValueError("both profiles must be of one candidate, with the same actions")
    if set(known.pixels) & set(new.pixels):
        raise ValueError("a known image is not new")
    statistics = _shifts(known, new) if new.pixels else []
    dice_known, dice_new = known.dice(confidence), new.dice(confidence)
    return Drift(
        known_images=len(known.pixels),
        new_images=len(new.pixels),
        statistics=statistics,
        actions_known=known.action_shares(),
        actions_new=new.action_shares(),
        actions_labels=list(known.labels),
        champion_dice_known=dice_known,
        champion_dice_new=dice_new,
        sentence=_sentence(known, new, statistics, dice_known, dice_new),
    )


def noticeable_shift(n_known: int, n_new: int, n_statistics: int) -> float:
    """Return the shift in standard deviations from which a warning is due.

    `n_known` and `n_new` count patients. The means of a few new patients are far off by chance, the more so
    the more statistics there are: the threshold leaves false alarms to `FALSE_ALARMS` of the nights
    (Bonferroni), and is never below `LARGEST_SHIFT_SD`.
    """
    critical = float(ndtri(1 - FALSE_ALARMS / (2 * n_statistics)))
    return max(LARGEST_SHIFT_SD, critical * math.sqrt(1 / n_known + 1 / n_new))


def noticeable_fall(known: Interval, n_new: int) -> float:
    """Return the fall of the mean Dice from which a warning is due: what chance alone does not explain.

    The half-width of the prediction interval for the mean of `n_new` further patients; infinite after one.
    """
    return (known.high - known.low) / 2 * math.sqrt(1 + known.n / n_new)


def _shifts(known: Profile, new: Profile) -> list[DriftStatistic]:
    names = [name for name in known.statistic_names if name in new.statistic_names]
    known_NS, new_NS = known.named(names), new.named(names)
    mean_known_S, mean_new_S = known_NS.mean(axis=0), new_NS.mean(axis=0)
    sd_S = known_NS.std(axis=0, ddof=1) if len(known_NS) > 1 else np.zeros(len(names))
    # What never varied has no scale but its rounding; any change of it is a large shift, and a finite one.
    sd_S = np.maximum(sd_S, 1e-4 * np.maximum(np.abs(mean_known_S), 1e-2))
    shift_S = (mean_new_S - mean_known_S) / sd_S
    found = [
        DriftStatistic(name=name, mean_known=float(a), mean_new=float(b), shift=float(shift))
        for name, a, b, shift in zip(names, mean_known_S, mean_new_S, shift_S, strict=True)
    ]
    return sorted(found, key=lambda statistic: -abs(statistic.shift))


def _sentence(
    known: Profile,
    new: Profile,
    statistics: Sequence[DriftStatistic],
    dice_known: Interval | None,
    dice_new: Interval | None,
) -> str:
    if not new.pixels:
        return "No image is new since the champion was made."
    threshold = noticeable_shift(len(set(known.patients)), len(set(new.patients)), max(len(statistics), 1))
    shifted = [statistic for statistic in statistics if abs(statistic.shift) > threshold]
    fell = dice_known is not None and dice_new is not None and _fell(dice_known, dice_new)
    what = "1 new image" if len(new.pixels) == 1 else f"{len(new.pixels)} new images"
    if shifted:
        named = ", ".join(f"{_spoken(s)} {s.shift:+.1f} sd" for s in shifted[:SHOWN])
        more = f" and {len(shifted) - SHOWN} more" if len(shifted) > SHOWN else ""
        looks = f"{what}: unlike the known ones ({named}{more})"
    else:
        largest = (
            f" (largest shift {abs(statistics[0].shift):.1f} sd, {_spoken(statistics[0])})"
            if statistics
            else ""
        )
        looks = f"{what}: like the known ones{largest}"
    scores = _scores(new, dice_known, dice_new, fell)
    return f"{WARNING if shifted or fell else ''}{looks}; {scores}."


def _spoken(statistic: DriftStatistic) -> str:
    return statistic.name.replace("_", " ")


def _fell(known: Interval, new: Interval) -> bool:
    return known.mean - new.mean > noticeable_fall(known, new.n)


def _scores(new: Profile, dice_known: Interval | None, dice_new: Interval | None, fell: bool) -> str:
    if dice_new is None:
        return "none of them is annotated, so that the champion's Dice on them is unknown"
    n_images = int(np.count_nonzero(~np.isnan(new.dice_N)))
    on = f"{_counted(n_images, 'new annotated image')} of {_counted(dice_new.n, 'patient')}"
    before = f" against {dice_known.mean:.3f} before" if dice_known is not None else ""
    falls = ", a fall beyond chance" if fell else ""
    return f"the champion scores Dice {dice_new.mean:.3f} on {on}{before}{falls}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _damaged(path: Path, problem: str) -> IntegrityError:
    return IntegrityError(f"{path}: {problem}", advice="fetch an undamaged copy of the run folder")
