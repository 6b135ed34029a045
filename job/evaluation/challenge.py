"""The challenge: does tonight's candidate beat the champion on test images that neither has learned from?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.evaluation.results import Verdict
from job.evaluation.verdict import shows_gain, spoken, spread, why_undecided
from job.metrics.statistics import Uplift, paired_uplift, patient_interval
from job.publish.training_info import Drift, Promotion

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Opponent:
    """The champion, and what it scored on tonight's N test images.

    `dice_N` is NaN on images that the champion learned from, where it cannot be judged.
    """

    run: str
    candidate: str
    generation: int
    is_challenger: bool
    """Whether what ships tonight acts exactly as it does."""
    dice_N: Scores
    drift: Drift | None


def judge(
    verdict: Verdict,
    challenger_dice_N: Scores,
    patients: Sequence[str],
    champion: Opponent | None,
    confidence: float = 0.95,
) -> Promotion:
    """Decide whether what ships becomes the champion.

    It must be `improved`, which is against the no-op and on all test images; and where there is a champion,
    the paired difference to it must show a gain too, by the verdict's own rule (`verdict.shows_gain`), over
    patient means of the images that the champion did not learn from.
    """
    if champion is None:
        return _without_champion(verdict, challenger_dice_N, patients, confidence)
    rows = [int(i) for i in np.flatnonzero(~np.isnan(champion.dice_N))]
    kept = [patients[i] for i in rows]
    is_compared = verdict.verdict != "invalid" and len(rows) > 0
    mine, theirs = challenger_dice_N[rows], champion.dice_N[rows]
    uplift = paired_uplift(mine, theirs, kept, confidence) if is_compared else None
    wins = (
        verdict.verdict == "improved"
        and not champion.is_challenger
        and uplift is not None
        and shows_gain(uplift, confidence)
    )
    decision = "invalid" if verdict.verdict == "invalid" else "promote" if wins else "keep"
    return Promotion(
        decision=decision,
        sentence=_sentence(verdict, champion, uplift, mine, theirs, kept, confidence),
        champion=champion.run,
        champion_candidate=champion.candidate,
        generation=champion.generation,
        n_images=len(kept) if is_compared else 0,
        n_patients=len(set(kept)) if is_compared else 0,
        left_out=len(patients) - len(rows),
        champion_dice=patient_interval(theirs, kept, confidence) if is_compared else None,
        challenger_dice=patient_interval(mine, kept, confidence) if is_compared else None,
        vs_champion=uplift,
        drift=champion.drift,
    )


def _without_champion(
    verdict: Verdict, challenger_dice_N: Scores, patients: Sequence[str], confidence: float
) -> Promotion:
    is_valid = verdict.verdict != "invalid"
    wins = verdict.verdict == "improved"
    consequence = "What ships becomes the first one." if wins else "None is made."
    return Promotion(
        decision="invalid" if not is_valid else "promote" if wins else "keep",
        sentence=f"There is no champion yet. {verdict.sentence} {consequence}",
        champion=None,
        champion_candidate="what you have today",
        generation=0,
        n_images=len(patients) if is_valid else 0,
        n_patients=len(set(patients)) if is_valid else 0,
        left_out=0,
        champion_dice=verdict.dice_before if is_valid else None,
        challenger_dice=patient_interval(challenger_dice_N, patients, confidence) if is_valid else None,
        vs_champion=verdict.vs_noop if is_valid else None,
        drift=None,
    )


def _sentence(
    verdict: Verdict,
    champion: Opponent,
    uplift: Uplift | None,
    mine: Scores,
    theirs: Scores,
    patients: Sequence[str],
    confidence: float,
) -> str:
    title = f"the champion of generation {champion.generation} ({champion.candidate})"
    ships = spoken(verdict.ships)
    if verdict.verdict == "invalid":
        return f"A validity check failed: nothing is promoted, and {title} stays."
    if champion.is_challenger:
        return f"What ships is what is in use already: {title} stays."
    left_out = _left_out(len(champion.dice_N) - len(patients))
    if uplift is None:
        return (
            f"It cannot be told whether {ships} beats {title}, which learned from every test image: it stays."
        )
    means = [patient_interval(values, patients, confidence).mean for values in (theirs, mine)]
    on = f"on {_counted(len(patients), 'test image')} of {_counted(uplift.n_patients, 'patient')}{left_out}"
    change = f"Dice {means[0]:.3f} -> {means[1]:.3f} ({spread(uplift)}) {on}"
    if not shows_gain(uplift, confidence):
        if not uplift.wins and not uplift.losses:
            return f"{_capitalised(ships)} scores what {title} scores: {change}. It stays."
        why = why_undecided(uplift, confidence)
        return f"It is not shown that {ships} beats {title}: {change}{why}. It stays."
    beats = f"{_capitalised(ships)} beats {title}: {change}"
    if verdict.verdict != "improved":
        return (
            f"{beats}. It is not promoted, for it must beat what you have today as well. {verdict.sentence}"
        )
    return f"{beats}. It takes its place."


def _left_out(n_images: int) -> str:
    if not n_images:
        return ""
    verb = "is" if n_images == 1 else "are"
    return f" ({_counted(n_images, 'image')} that the champion learned from {verb} left out)"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
