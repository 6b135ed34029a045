"""Checks 1 to 5 and split_leak, before learning: after a failure no result can be trusted."""

import math
from collections.abc import Callable

import numpy as np

from job.checks.evidence import Leak, Scores, ValidityEvidence
from job.checks.missing import Missing, broken, first_missing
from job.checks.result import CheckResult, Severity, Thresholds, advise, unmeasured
from job.checks.variation import two_way, within_image
from job.metrics.statistics import TIE, argmax_regret, within_image_spearman

FREE_JUDGES = {"confidence": "the segmenter's own confidence", "consensus": "agreement between the actions"}

NO_REWARD = "no phase learns by the job's reward"

HOPELESS_R2 = -5.0
"""An R2 below it is no want of training: truths and images do not belong together."""


def replay_identity(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 1: the no-op through the environment scores what the segmenter's own mask scores.

    The reference experiment lost 6 to 10 Dice points between its environment and its baseline and could not
    say where; a difference here is a resize, threshold or bookkeeping error.
    """
    differences_N = np.abs(evidence.replayed_dice_N - evidence.baseline_dice_N)
    worst = int(differences_N.argmax())
    value = float(differences_N[worst])
    failed = not value <= thresholds.replay_tolerance  # NaN fails
    differs = f"differs from the baseline by up to {value:.2g} Dice" if value else "equals the baseline"
    return CheckResult(
        "replay_identity",
        value,
        thresholds.replay_tolerance,
        "validity",
        "failed" if failed else "passed",
        f"the no-op through the environment {differs} on {len(differences_N)} images",
        advise(
            (failed, f"look at {evidence.names[worst]}: sizes, threshold or scoring differ on the two paths")
        ),
        about=(evidence.names[worst],) if failed else (),
    )


def mask_diversity(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 2: actions make different masks; where they do not, nothing can be chosen between."""
    if evidence.dice_NK.shape[1] < 2:
        return unmeasured(
            "mask_diversity",
            thresholds.min_mask_diversity,
            "validity",
            "there is one action: nothing to choose",
        )
    value = float(evidence.diversity_N.mean())
    failed = not value >= thresholds.min_mask_diversity  # NaN fails
    return CheckResult(
        "mask_diversity",
        value,
        thresholds.min_mask_diversity,
        "validity",
        "failed" if failed else "passed",
        f"two actions' masks of an image differ by {value:.3f} (1 - Dice) on average",
        advise((failed, "the actions are inert: use prompts of different meaning, and more thresholds")),
        {"least": float(evidence.diversity_N.min()), "most": float(evidence.diversity_N.max())},
    )


def reward_variance(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 3: within an image the reward varies enough, compared with true Dice, to tell actions apart.

    The policy compares actions of one image only, so that a reward which varies between images alone teaches
    nothing. The reward is divided by the sum of its absolute weights, so that its unit does not matter; the
    details are in that unit, from `job.checks.variation.two_way`.
    """
    name, threshold = "reward_variance", thresholds.min_reward_spread
    if not evidence.terms:
        return unmeasured(name, threshold, "validity", NO_REWARD)
    missing = first_missing({"reward": evidence.rewards_NK, "Dice": evidence.dice_NK}, evidence.names)
    if missing:
        return broken(name, threshold, "validity", missing)
    weight = sum(abs(weight) for weight in evidence.weights.values())
    if weight == 0:
        raise ValueError("every weight is 0: the reward has no unit")
    scaled_NK = evidence.rewards_NK / weight
    reward, dice = two_way(scaled_NK), two_way(evidence.dice_NK)
    if evidence.dice_NK.shape[1] == 1 or dice.within <= TIE:
        return unmeasured(name, threshold, "validity", "true Dice is the same for all actions of an image")
    value = reward.within / dice.within
    failed = value < threshold
    flat_N = np.ptp(scaled_NK, axis=1) <= TIE
    return CheckResult(
        name,
        value,
        threshold,
        "validity",
        "failed" if failed else "passed",
        f"within an image the reward (weights adding up to 1) deviates by {reward.within:.4f}, "
        f"{value:.2f} times what true Dice does ({dice.within:.4f})",
        advise(
            (
                failed,
                "the reward hardly tells actions apart: add a term that does, or train its network longer",
            )
        ),
        {f"reward.{part}": sd for part, sd in vars(reward).items()}
        | {f"dice.{part}": sd for part, sd in vars(dice).items()}
        | {"flat_images": float(flat_N.mean())},
    )


def term_audit(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 4: no term of the reward pays for masks of lower Dice.

    Per term: `mean` and `sd` over all cells, `share` of the reward's within-image variance,
    cov(weight * term, reward) / var(reward), which add up to 1 over the terms, and `correlation`, the mean
    within-image rank correlation with true Dice, times the sign of the weight. A term that is the same for
    every action has none: it teaches nothing and does no harm.
    """
    name, threshold = "term_audit", thresholds.min_term_correlation
    if not evidence.terms:
        return unmeasured(name, threshold, "validity", NO_REWARD)
    measured = {"reward": evidence.rewards_NK, "Dice": evidence.dice_NK} | dict(evidence.terms)
    missing = first_missing(measured, evidence.names)
    if missing:
        return broken(name, threshold, "validity", missing)
    details: dict[str, float] = {}
    correlations: dict[str, float] = {}
    active = {term: scores_NK for term, scores_NK in evidence.terms.items() if evidence.weights[term]}
    for term, scores_NK in active.items():
        weight = evidence.weights[term]
        correlations[term] = _rank_agreement(math.copysign(1.0, weight) * scores_NK, evidence.dice_NK)
        details |= {
            f"{term}.mean": float(scores_NK.mean()),
            f"{term}.sd": float(scores_NK.std()),
            f"{term}.share": _share_of_variance(weight * scores_NK, evidence.rewards_NK),
            f"{term}.correlation": correlations[term],
        }
    flat = [term for term, scores_NK in active.items() if (np.ptp(scores_NK, axis=1) <= TIE).all()]
    ranked = {term: value for term, value in correlations.items() if not math.isnan(value)}
    if not ranked:
        return unmeasured(name, threshold, "validity", "no term can be ranked against true Dice")
    worst = min(ranked, key=lambda term: ranked[term])
    value = ranked[worst]
    failed = value < threshold - TIE
    return CheckResult(
        name,
        value,
        threshold,
        "validity",
        "failed" if failed else "passed",
        f"of {len(active)} terms {worst} agrees least with true Dice: mean within-image rank "
        f"correlation {value:.2f}, at weight {evidence.weights[worst]:.3g}",
        advise(
            (failed, f"{worst} pays for worse masks: drop the term or change its weight"),
            (bool(flat), f"the same for every action, so without use: {', '.join(flat)}"),
        ),
        details,
    )


def proxy_quality(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 5: the reward network knows more than the mean, and looks at the image.

    R2 is against predicting the mean Dice of all these masks. A network that scores masks alike when they
    are shown with another patient's image judges shapes, not segmentations. Free judges choose without a
    network: where one has less regret, the network is not worth its training.

    Where nothing learns by the network, only its own pick rests on it, which validation judges: a failure
    is advice then.
    """
    name, threshold = "proxy_quality", thresholds.min_proxy_r2
    true_NK = evidence.dice_NK
    judges = {
        "reward_net": evidence.reward_net_NK,
        "confidence": evidence.confidence_NK,
        "consensus": evidence.consensus_NK,
    }
    missing = first_missing(judges | {"Dice": true_NK}, evidence.names)
    swap_M = np.abs(evidence.own_M - evidence.swapped_M)
    if not missing and not np.isfinite(swap_M).all():
        missing = Missing("a score of the reward network on a swapped image is not a number")
    if missing:
        return broken(name, threshold, "validity", missing)
    error_NK = evidence.reward_net_NK - true_NK
    variance = float(true_NK.var())
    r2 = 1 - float((error_NK**2).mean()) / variance if variance > TIE**2 else math.nan
    swap = float(swap_M.mean()) if len(swap_M) else math.nan
    regret = {judge: float(argmax_regret(scores_NK, true_NK).mean()) for judge, scores_NK in judges.items()}
    details = {
        "r2": r2,
        "mae": float(np.abs(error_NK).mean()),
        "swap_effect": swap,
        "oracle_gap": float(true_NK.max(axis=1).mean() - true_NK.mean(axis=0).max()),
    }
    for judge, scores_NK in judges.items():
        details |= {
            f"{judge}.spearman": _rank_agreement(scores_NK, true_NK),
            f"{judge}.regret": regret[judge],
        }
    worthless, blind = r2 <= threshold, swap < thresholds.min_swap_effect
    severity: Severity = "validity" if evidence.network_rewards else "advice"
    if math.isnan(r2) and not blind:
        return unmeasured(name, threshold, severity, "true Dice is the same for all masks")
    free = min(FREE_JUDGES, key=lambda judge: regret[judge])
    beaten = regret[free] < regret["reward_net"] - TIE
    regrets = f"regret {regret[free]:.4f} against {regret['reward_net']:.4f}"
    moved = "no image could be swapped" if math.isnan(swap) else f"a swapped image moves it by {swap:.3f}"
    return CheckResult(
        name,
        r2,
        threshold,
        severity,
        "failed" if worthless or blind else "passed",
        f"the reward network's R2 is {r2:.2f}, {moved} (at least {thresholds.min_swap_effect:g}), and "
        f"choosing by it loses {regret['reward_net']:.4f} Dice to the best action"
        + ("" if evidence.network_rewards else "; nothing learns by it, only its own pick rests on it"),
        advise(
            (
                r2 < HOPELESS_R2,
                "the network is far from every truth: check that masks belong to their images and are not"
                " inverted, `dataset check` helps",
            ),
            (
                worthless and not r2 < HOPELESS_R2,
                "the network predicts no better than the mean: train it longer or on more images",
            ),
            (blind, "the network hardly looks at the image: train it on masks shown with other images"),
            (beaten, f"{FREE_JUDGES[free]} chooses better than the network ({regrets})"),
            (
                (worthless or blind) and not evidence.network_rewards,
                "rely on neither its predicted quality nor its flags for review",
            ),
        ),
        details,
    )


def split_leak(evidence: ValidityEvidence, thresholds: Thresholds) -> CheckResult:
    """Refuse splits in which a held-out image is a copy of one that was learned from or chosen on."""
    threshold = thresholds.max_image_similarity
    leaks = [leak for leak in evidence.leaks if not leak.similarity <= threshold]
    worst = max(evidence.leaks, key=lambda leak: leak.similarity, default=None)
    further = f", and {len(leaks) - 1} more leak too" if len(leaks) > 1 else ""
    return CheckResult(
        "split_leak",
        worst.similarity if worst else 0.0,
        threshold,
        "validity",
        "failed" if leaks else "passed",
        _alike(worst) + further if worst else "no image resembles one of another split",
        advise(
            (
                bool(leaks),
                "keep a patient's images in one split: name patients in the annotations, remove copies",
            )
        ),
        {"pairs": float(len(leaks))},
        about=(worst.held_out, worst.seen) if worst else (),
    )


def _alike(leak: Leak) -> str:
    held_out, seen = f"{leak.held_out} ({leak.held_out_split})", f"{leak.seen} ({leak.seen_split})"
    return f"{held_out} resembles {seen} by {leak.similarity:.3f}"


def _rank_agreement(scores_NK: Scores, dice_NK: Scores) -> float:
    """Mean within-image rank correlation over the images that have one; NaN if none has."""
    ranked_N = within_image_spearman(scores_NK, dice_NK)
    has_ranks_N = np.isfinite(ranked_N)
    return float(ranked_N[has_ranks_N].mean()) if has_ranks_N.any() else math.nan


def _share_of_variance(weighted_NK: Scores, rewards_NK: Scores) -> float:
    reward_NK = within_image(rewards_NK)
    variance = float((reward_NK**2).mean())
    if variance <= TIE**2:
        return math.nan
    return float((within_image(weighted_NK) * reward_NK).mean()) / variance


VALIDITY: tuple[Callable[[ValidityEvidence, Thresholds], CheckResult], ...] = (
    replay_identity,
    mask_diversity,
    reward_variance,
    term_audit,
    proxy_quality,
    split_leak,
)
"""Every validity check, in the order of their numbers."""
