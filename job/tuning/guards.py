"""When a phase ends, and which of its states is kept: pure functions of what its looks saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fooled = Literal["reward_hacking", "overfitting"]
Ending = Fooled | Literal["kl", "patience"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Two or more successive samples of the proxy, and their share of what is maximised, of 1 in all."""

    n_samples: int
    share: float


@dataclass(frozen=True)
class Limits:
    """What a phase may do: `patience` looks without a better gold, nats of `kl` a pixel, and a fall of gold.

    `smallest_fall` is the least fall of mean Dice that counts as one, whatever the patients say. `parts` are
    those of the proxy; none: all samples weigh the same. `fooled` names what it is when gold falls while the
    proxy rises: a reward that is nothing but true is not hacked, and overfits.
    """

    patience: int
    kl_budget: float | None = None
    smallest_fall: float = 0.01
    parts: tuple[Part, ...] = ()
    fooled: Fooled = "reward_hacking"


@dataclass
class Looks:
    """What was seen at each look, the start being the first: gold by patient, proxy by sample, mean KL.

    `worth` is what the kept state has most of, among those whose mean gold is at most `slack` below the
    start's, and whose KL is within the budget.
    """

    gold: list[Numbers] = field(default_factory=list)
    proxy: list[Numbers] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    worth: list[float] = field(default_factory=list)
    slack: float = 0.0
    kl_budget: float | None = None

    @property
    def best(self) -> int:
        """The look of highest worth, the earliest among equals: the start wins unless it is beaten."""
        least = self.gold[0].mean() - self.slack
        most = math.inf if self.kl_budget is None else self.kl_budget
        allowed = [
            gold_P.mean() >= least and kl <= most for gold_P, kl in zip(self.gold, self.kl, strict=True)
        ]
        return int(np.argmax(np.where(allowed, self.worth, -np.inf)))


def ending(looks: Looks, limits: Limits) -> Ending | None:
    """Return why training ends after the latest look, None where it goes on."""
    if limits.kl_budget is not None and looks.kl[-1] > limits.kl_budget:
        return "kl"
    if is_fooled(looks, limits):
        return limits.fooled
    return "patience" if len(looks.gold) - 1 - looks.best >= limits.patience else None


def is_fooled(looks: Looks, limits: Limits) -> bool:
    """Return whether gold fell from its best while the proxy rose, both beyond noise, two looks in a row.

    Where gold may be given up, it fell by more than that from its start.
    One look alone may be an unlucky one, and a gold that is on its way back up, beyond noise or by more than
    the smallest fall, is not fooled: large first steps cost it a dip. Without a proxy nothing fools.
    """
    best, last = 0 if looks.slack else looks.best, len(looks.gold) - 1
    least = max(limits.smallest_fall, looks.slack)
    if last - best < 2 or not looks.proxy:
        return False
    before, now = looks.gold[last - 1 :]
    if now.mean() - before.mean() > limits.smallest_fall or has_risen(before, now):
        return False
    return all(
        has_risen(looks.gold[at], looks.gold[best], least)
        and has_risen(looks.proxy[best], looks.proxy[at], parts=limits.parts)
        for at in (last - 1, last)
    )


def has_risen(
    before: Sequence[float] | Numbers,
    after: Sequence[float] | Numbers,
    least: float = 0.0,
    parts: Sequence[Part] = (),
) -> bool:
    """Return whether paired values rose in the mean by more than `least` and than their standard error.

    The pairs are patients or samples: looks share them, so that what makes one hard is no noise. Of `parts`
    the mean and its error are those of a stratified sample. One pair alone has no standard error, and `least`
    decides.
    """
    rise = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    variance = sum(
        share**2 * values.var(ddof=1) / len(values)
        for values, share in _of_parts(rise, parts)
        if len(values) > 1
    )
    return mean_of(rise, parts) > max(least, float(np.sqrt(variance)))


def mean_of(values: Numbers, parts: Sequence[Part] = ()) -> float:
    """Return the mean of samples, each part's weighed by its share."""
    return float(sum(share * some.mean() for some, share in _of_parts(values, parts)))


def _of_parts(values: Numbers, parts: Sequence[Part]) -> list[tuple[Numbers, float]]:
    if not parts:
        return [(values, 1.0)]
    ends = np.cumsum([part.n_samples for part in parts])
    assert ends[-1] == len(values)
    pieces = np.split(values, ends[:-1])
    return [(some, part.share) for some, part in zip(pieces, parts, strict=True)]
