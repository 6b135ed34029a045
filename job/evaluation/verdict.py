"""The verdict: is what ships better than what the user has today, and did learning add anything?"""

import math
from collections.abc import Mapping

from job.evaluation.results import Verdict, VerdictName
from job.metrics.statistics import Interval, Uplift, patients_needed

SPOKEN = {
    "uniform": "a random action",
    "noop": "what you have today",
    "best_fixed_prompt": "the best fixed prompt",
    "best_fixed_postprocess": "the best fixed post-processing",
    "best_fixed": "the best fixed action",
    "confidence": "choosing by the segmenter's confidence",
    "consensus": "choosing by agreement",
    "ridge": "ridge regression",
    "reward_net": "choosing by the reward network",
    "exact": "the exact policy gradient",
    "ppo": "the PPO policy",
    "sft": "the segmenter after supervised fine-tuning",
    "grpo": "the segmenter after GRPO",
    "selected": "what each fold chose",
}
"""Candidates in a sentence."""
POLICY = "the learned policy (PPO)"
"""PPO's in a sentence on learning."""
LEAST_PATIENTS = 2
"""A single patient has no spread: nothing can be concluded from one."""
LEAST_PATIENTS_TO_IMPROVE = 6
"""Five patients have 32 sign patterns: no two-sided sign-flip test over them can reach p <= 0.05."""


def decide(
    *,
    valid: bool,
    ships: str,
    before: Interval,
    after: Interval,
    vs_noop: Uplift,
    learned_vs_best_fixed: Mapping[str, Uplift],
    smallest_effect: float,
    confidence: float = 0.95,
) -> Verdict:
    """Put the two answers into words; `learned_vs_best_fixed` has what was learned, by candidate.

    `confidence` is that of the intervals given. `improved` takes at least `LEAST_PATIENTS_TO_IMPROVE`
    patients, a lower bound above 0 and a sign-flip test that agrees.
    """
    name = _name(valid, ships, vs_noop, smallest_effect, confidence)
    needed = _needed(vs_noop, smallest_effect, confidence) if name == "inconclusive" else None
    return Verdict(
        verdict=name,
        sentence=_sentence(name, ships, before, after, vs_noop, smallest_effect, confidence, needed),
        ships=ships,
        dice_before=before,
        dice_after=after,
        vs_noop=vs_noop,
        vs_best_fixed=next(iter(learned_vs_best_fixed.values()), None),
        learning=" ".join(
            _learning(POLICY if name == "ppo" else spoken(name), uplift, smallest_effect, confidence)
            for name, uplift in learned_vs_best_fixed.items()
        )
        or "No policy was trained or judged.",
        patients_needed=needed,
    )


def spoken(candidate: str) -> str:
    """Return a candidate as it stands in a sentence."""
    phase, _, number = candidate.rpartition("_")
    if number.isdigit() and phase in SPOKEN:
        return f"{SPOKEN[phase]} (phase {candidate})"
    return SPOKEN.get(candidate, candidate)


def shows_gain(uplift: Uplift, confidence: float) -> bool:
    """Tell whether a paired difference is surely positive: what `improved` and a promotion take.

    Its lower bound exceeds 0, and the sign-flip test, over at least `LEAST_PATIENTS_TO_IMPROVE` patients,
    agrees.
    """
    return uplift.low > 0 and _confirmed(uplift, confidence)


def spread(uplift: Uplift) -> str:
    """Return a paired difference with its interval, for a sentence: `+0.021, interval +0.008 to +0.034`."""
    return f"{_signed(uplift.mean)}, {_interval(uplift)}"


def why_undecided(uplift: Uplift, confidence: float) -> str:
    """Say what stands against a gain, where the interval alone does not tell; empty where it does."""
    fewest = _fewest_patients(confidence)
    if uplift.n_patients < fewest:
        patients = "1 patient" if uplift.n_patients == 1 else f"{uplift.n_patients} patients"
        return f"; with {patients} no gain can be shown: at least {fewest} are needed"
    if (uplift.low > 0) != (uplift.mean > 0 and _confirmed(uplift, confidence)):
        return f"; interval and sign-flip test (p = {uplift.p_value:.3f}) disagree"
    return ""


def _name(valid: bool, ships: str, uplift: Uplift, smallest_effect: float, confidence: float) -> VerdictName:
    if not valid:
        return "invalid"
    if ships == "noop":  # the same masks: no number of patients could tell them apart
        return "no-improvement"
    if shows_gain(uplift, confidence):
        return "improved"
    if uplift.high < smallest_effect:
        return "no-improvement"
    return "inconclusive"


def _confirmed(uplift: Uplift, confidence: float) -> bool:
    """Tell whether the sign-flip test, over enough patients, finds a difference too; never of NaN."""
    # 1 - 0.8 is a hair less than 0.2, which is a p that the test can give.
    level = round(1 - confidence, 12)
    return uplift.n_patients >= _fewest_patients(confidence) and uplift.p_value <= level


def _fewest_patients(confidence: float) -> int:
    """Patients from which the sign-flip test can reach 1 - confidence: its least p is 2 in 2^n."""
    return max(LEAST_PATIENTS_TO_IMPROVE, math.ceil(1 - math.log2(1 - confidence)))


def _needed(uplift: Uplift, smallest_effect: float, confidence: float) -> int | None:
    if uplift.n_patients < LEAST_PATIENTS:
        return None
    # An effect smaller than the smallest worth having need not be resolved.
    effect = max(abs(uplift.mean), smallest_effect)
    by_power = patients_needed(uplift.sd, effect, confidence=confidence)
    return max(by_power, uplift.n_patients + 1, _fewest_patients(confidence))


def _sentence(
    name: VerdictName,
    ships: str,
    before: Interval,
    after: Interval,
    uplift: Uplift,
    smallest_effect: float,
    confidence: float,
    needed: int | None,
) -> str:
    change = f"Dice {before.mean:.3f} -> {after.mean:.3f}"
    judged = f"{change} ({spread(uplift)})"
    subject = spoken(ships)
    if name == "invalid":
        return "A validity check failed: the numbers below cannot be trusted, and nothing ships."
    if name == "improved":
        return f"{_capitalised(subject)} beats what you have today: {judged}."
    if name == "no-improvement":
        if ships == "noop":
            return f"Nothing beats what you have today: {change}."
        beaten = f"does not beat what you have today by {smallest_effect:g} Dice"
        return f"{_capitalised(subject)} {beaten}: {judged}."
    why = why_undecided(uplift, confidence)
    more = f"; about {needed} test patients would decide" if needed else ""
    return f"It is not decided whether {subject} beats what you have today: {judged}{why}{more}."


def _learning(learned: str, uplift: Uplift, smallest_effect: float, confidence: float) -> str:
    subject = _capitalised(learned)
    gained = f"({_signed(uplift.mean)} Dice, {_interval(uplift)})"
    if shows_gain(uplift, confidence):
        return f"{subject} added something over the best fixed action {gained}."
    if uplift.high < 0 and _confirmed(uplift, confidence):
        return f"{subject} is worse than the best fixed action {gained}."
    if uplift.high < smallest_effect:
        return f"{subject} added nothing worth having over the best fixed action {gained}."
    not_shown = f"{subject} has not been shown to add anything over the best fixed action"
    return f"{not_shown} {gained}{why_undecided(uplift, confidence)}."


def _interval(uplift: Uplift) -> str:
    if uplift.n_patients < LEAST_PATIENTS:
        return "one patient: no interval"
    return f"interval {_signed(uplift.low)} to {_signed(uplift.high)}"


def _signed(value: float) -> str:
    """Return three decimals with their sign; what rounds to 0 has none."""
    return f"{value:+.3f}" if round(abs(value), 3) else "0.000"


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
