"""Checks 8 to 12, of the learned candidate on validation: a failure keeps it from shipping."""

import math
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from scipy.special import entr

from job.checks.evidence import NOOP, Actions, CandidateEvidence, Scores
from job.checks.missing import Missing, broken, first_missing
from job.checks.result import CheckResult, Thresholds, advise, unmeasured
from job.metrics.statistics import TIE, paired_uplift, patient_means

# Rules of thumb for PPO's logs: a healthy update moves the policy by a few hundredths of a nat at most and
# clips a minority of samples. Beyond them the clipped objective no longer holds the policy near the old one.
LARGE_KL = 0.05
LARGE_CLIP_FRACTION = 0.3


def gap_closed(evidence: CandidateEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 8: the share of the gap between best fixed action and oracle that the policy closes.

    Share = (policy - best fixed) / (oracle - best fixed), regret = oracle - policy, all means over patients.
    """
    name, threshold = "gap_closed", thresholds.min_gap_closed
    if missing := _missing(evidence, Dice=evidence.dice_NK):
        return broken(name, threshold, "candidate", missing)
    oracle = _mean(evidence.dice_NK.max(axis=1), evidence)
    fixed = _mean(evidence.dice_NK[:, evidence.best_fixed], evidence)
    policy = _mean(_chosen(evidence.chosen_N, evidence.dice_NK), evidence)
    gap, regret = oracle - fixed, oracle - policy
    details = {"policy": policy, "best_fixed": fixed, "oracle": oracle, "gap": gap, "regret": regret}
    if gap <= TIE:
        return CheckResult(
            name,
            math.nan,
            threshold,
            "candidate",
            "failed",
            f"the best fixed action serves every image best ({fixed:.4f} Dice); regret {regret:.4f}",
            "there is no gap to close: nothing can be learned from image to image with these actions",
            details,
        )
    value = (policy - fixed) / gap
    failed = value < threshold - TIE
    return CheckResult(
        name,
        value,
        threshold,
        "candidate",
        "failed" if failed else "passed",
        f"the policy closes {100 * value:.0f} % of the gap from best fixed action ({fixed:.4f} Dice) to "
        f"oracle ({oracle:.4f}); its regret is {regret:.4f}",
        advise((failed, "a fixed action serves better: train longer, or start from the prior")),
        details,
    )


def learning(evidence: CandidateEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 9: training has moved the policy away from uniform; what else its figures say is advice.

    Value is the mean entropy of the policy as a share of ln K, a uniform policy's.
    """
    name, threshold = "learning", thresholds.max_entropy
    n_actions = evidence.probabilities_NK.shape[1]
    if n_actions == 1:
        return unmeasured(name, threshold, "candidate", "there is one action and nothing to choose")
    value = float(entr(evidence.probabilities_NK).sum(axis=1).mean()) / math.log(n_actions)
    failed = not value <= threshold  # NaN fails
    chosen_K = np.bincount(evidence.chosen_N, minlength=n_actions)
    distinct, frequent = int(np.count_nonzero(chosen_K)), float(chosen_K.max() / chosen_K.sum())
    details = {
        "entropy": value,
        "distinct_actions": float(distinct),
        "most_frequent_share": frequent,
        "value_loss_ratio": _ratio(
            evidence.last_rollout.get("value_loss", math.nan), evidence.reward_variance
        ),
    } | {
        figure: evidence.last_rollout.get(figure, math.nan)
        for figure in ("explained_variance", "approx_kl", "clip_fraction")
    }
    return CheckResult(
        name,
        value,
        threshold,
        "candidate",
        "failed" if failed else "passed",
        f"the policy's entropy is {100 * value:.0f} % of a uniform one's; it chooses {distinct} of "
        f"{n_actions} actions, the most frequent one for {100 * frequent:.0f} % of images",
        advise(
            (failed, "the policy is near uniform: train longer, lower ent_coef, or start from the prior"),
            (
                distinct == 1,
                f"it chooses action {chosen_K.argmax()} for every image: a fixed action does that",
            ),
            *_training_advice(details),
        ),
        details,
    )


def uplift(evidence: CandidateEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 10: on validation the policy's masks are better than today's."""
    name, threshold = "uplift", thresholds.min_uplift
    if missing := _missing(evidence, Dice=evidence.dice_NK):
        return broken(name, threshold, "candidate", missing)
    policy_N = _chosen(evidence.chosen_N, evidence.dice_NK)
    gain = paired_uplift(policy_N, evidence.dice_NK[:, NOOP], evidence.patients, evidence.confidence)
    failed = gain.mean <= threshold + TIE
    return CheckResult(
        name,
        gain.mean,
        threshold,
        "candidate",
        "failed" if failed else "passed",
        f"the policy changes the no-op's Dice by {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) over "
        f"{gain.n_patients} patients: {gain.wins} images better, {gain.ties} equal, {gain.losses} worse",
        advise((failed, "the policy does no better than today's masks on validation: train it longer")),
        {
            "low": gain.low,
            "high": gain.high,
            "wins": float(gain.wins),
            "ties": float(gain.ties),
            "losses": float(gain.losses),
        },
    )


def reward_hacking(evidence: CandidateEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 11: the policy's reward does not rise at the cost of the masks.

    Fails where, against the no-op, the reward rises while Dice falls; where recall rises and precision falls
    while Dice does not rise; or where the foreground is out of proportion to the truth's, and more so than
    the no-op's. Foreground over truth is recall / precision, its geometric mean over the images where both
    masks touch the truth.
    """
    name = "reward_hacking"
    scores = {
        "reward": evidence.rewards_NK,
        "Dice": evidence.dice_NK,
        "recall": evidence.recall_NK,
        "precision": evidence.precision_NK,
    }
    if missing := _missing(evidence, **scores):
        return broken(name, 0.0, "candidate", missing)
    noop_N = np.full_like(evidence.chosen_N, NOOP)
    change = {
        what.lower(): _mean(_chosen(evidence.chosen_N, scores_NK) - scores_NK[:, NOOP], evidence)
        for what, scores_NK in scores.items()
    }
    log_policy_N, log_noop_N = _log_foreground(evidence.chosen_N, evidence), _log_foreground(noop_N, evidence)
    touching_N = np.isfinite(log_policy_N) & np.isfinite(log_noop_N)
    log_policy = float(log_policy_N[touching_N].mean()) if touching_N.any() else math.nan
    log_noop = float(log_noop_N[touching_N].mean()) if touching_N.any() else math.nan
    hacked = change["reward"] > TIE and change["dice"] < -TIE
    bought = change["recall"] > TIE and change["precision"] < -TIE and change["dice"] <= TIE
    out_of_proportion = (
        abs(log_policy) > math.log(thresholds.max_foreground_ratio) + TIE
        and abs(log_policy) > abs(log_noop) + TIE
    )
    size = "outgrow" if log_policy > 0 else "shrink below"
    foreground, of_noop = math.exp(log_policy), math.exp(log_noop)
    moved = ", ".join(f"{what} {change[what.lower()]:+.4f}" for what in scores)
    return CheckResult(
        name,
        change["dice"],
        0.0,
        "candidate",
        "failed" if hacked or bought or out_of_proportion else "passed",
        f"policy against no-op: {moved}; "
        + (
            f"its foreground is {foreground:.2f} times the truth's, the no-op's {of_noop:.2f} times"
            if touching_N.any()
            else "on no image do both masks touch the truth"
        ),
        advise(
            (hacked, "the reward pays for worse masks: give true Dice more weight"),
            (bought, "recall is bought with precision: give Dice or precision more weight"),
            (out_of_proportion, f"masks {size} the truth: reward foreground agreement or Dice"),
        ),
        change | {"foreground": foreground, "noop_foreground": of_noop},
    )


def stability(evidence: CandidateEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 12: trainings that differ by their seed alone end alike, compared with what they gain.

    Value is the deviation over seeds of mean Dice, over the size of their mean gain over the best fixed
    action; infinite where seeds differ and gain nothing. `agreement` is the share of images for which two
    seeds choose the same action, over all pairs of seeds.
    """
    name, threshold = "stability", thresholds.max_seed_spread
    seeds = evidence.chosen_by_seed
    if len(seeds) < 2:
        return unmeasured(name, threshold, "candidate", "one training says nothing of how seeds differ")
    if missing := _missing(evidence, Dice=evidence.dice_NK):
        return broken(name, threshold, "candidate", missing)
    dice = [_mean(_chosen(chosen_N, evidence.dice_NK), evidence) for chosen_N in seeds]
    gain = float(np.mean(dice)) - _mean(evidence.dice_NK[:, evidence.best_fixed], evidence)
    sd = float(np.std(dice, ddof=1))
    value = 0.0 if sd <= TIE else sd / abs(gain) if abs(gain) > TIE else math.inf
    agreement = float(np.mean([(one == other).mean() for one, other in combinations(seeds, 2)]))
    failed = value > threshold
    return CheckResult(
        name,
        value,
        threshold,
        "candidate",
        "failed" if failed else "passed",
        f"over {len(seeds)} seeds Dice deviates by {sd:.4f}, with a mean gain of {gain:+.4f} over the best "
        f"fixed action; two seeds choose alike for {100 * agreement:.0f} % of images",
        advise((failed, "the seed decides more than the training: train longer, or on more images")),
        {
            "seeds": float(len(seeds)),
            "sd": sd,
            "gain": gain,
            "agreement": agreement,
            "least": min(dice),
            "most": max(dice),
        },
    )


def _training_advice(figures: Mapping[str, float]) -> list[tuple[bool, str]]:
    """Comment on PPO's last figures; what lacks (NaN) compares false and is passed over."""
    explained, ratio = figures["explained_variance"], figures["value_loss_ratio"]
    kl, clipped = figures["approx_kl"], figures["clip_fraction"]
    return [
        (
            explained < 0,
            f"the value function predicts worse than a constant (explained variance {explained:.2f})",
        ),
        (ratio > 1, f"the value loss is {ratio:.1f} times the reward's variance"),
        (kl > LARGE_KL, f"updates are large (KL {kl:.3f}): lower learning_rate or n_epochs"),
        (
            clipped > LARGE_CLIP_FRACTION,
            f"{100 * clipped:.0f} % of samples were clipped: lower learning_rate or n_epochs",
        ),
    ]


def _chosen(actions_N: Actions, scores_NK: Scores) -> Scores:
    return np.take_along_axis(scores_NK, actions_N[:, None], axis=1)[:, 0]


def _mean(values_N: Scores, evidence: CandidateEvidence) -> float:
    return float(patient_means(values_N, evidence.patients).mean())


def _missing(evidence: CandidateEvidence, **arrays: Scores) -> Missing | None:
    return first_missing(arrays, [f"an image of {patient}" for patient in evidence.patients])


def _log_foreground(actions_N: Actions, evidence: CandidateEvidence) -> Scores:
    """Log of foreground over truth per image; NaN where a mask does not touch the truth, or one is empty."""
    recall_N = _chosen(actions_N, evidence.recall_NK)
    precision_N = _chosen(actions_N, evidence.precision_NK)
    touches_N = (recall_N > 0) & (precision_N > 0)
    ratio_N = np.divide(recall_N, precision_N, out=np.full(len(recall_N), np.nan), where=touches_N)
    logs: Scores = np.log(ratio_N)
    return logs


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


CANDIDATE: tuple[Callable[[CandidateEvidence, Thresholds], CheckResult], ...] = (
    gap_closed,
    learning,
    uplift,
    reward_hacking,
    stability,
)
"""Every candidate check, in the order of their numbers."""
