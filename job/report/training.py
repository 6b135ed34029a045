"""What was learned: the policy's curves, the reward network in words, and which actions were chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.publish.training_info import RewardSummary, TrainingInfo
from job.report.charts import LineChart, line_chart
from job.report.numbers import figure, significant
from job.spec.secrets import redact

# Figure, title, note; the entropy's note depends on the number of actions.
CURVES: tuple[tuple[str, str, str], ...] = (
    ("ep_rew_mean", "Reward", "mean of the rollout's episodes"),
    ("gt_dice", "True Dice", "of the actions that were sampled"),
    ("reward_net_score", "Reward network's score", "of the same masks"),
    ("entropy", "Entropy", ""),
    ("explained_variance", "Explained variance", "of the value function; 1 is perfect, cut at −1"),
    ("value_loss", "Value loss", "of the value function"),
    ("approx_kl", "Approximate KL", "between old and new policy"),
    ("clip_fraction", "Clip fraction", "share of clipped ratios"),
)

FLOORS = {"explained_variance": -1.0}
"""An untrained value function can start at -60, which would flatten the rest of its curve."""

FINDINGS: tuple[tuple[str, str, str], ...] = (
    ("mae", "Typical error", "mean distance of predicted from true Dice"),
    ("spearman", "Rank correlation", "within an image: 1 orders all masks as the truth does, 0 guesses"),
    ("r2", "R²", "1 is perfect, 0 no better than always saying the mean"),
    ("regret", "Regret", "Dice between its favourite and the best mask of an image"),
    ("oracle_gap", "Oracle gap", "the same for the best fixed action, for comparison"),
    ("interval_halfwidth", "Interval", "half-width that holds the true Dice of 9 in 10 new images"),
    ("mse", "Mean squared error", "what training minimises"),
)

MOST_ACTIONS = 12


@dataclass(frozen=True)
class ChosenAction:
    """How often what ships chose an action on the test images."""

    label: str
    n: int
    share: float
    """Of all test images, in percent."""
    is_noop: bool


@dataclass(frozen=True)
class ChosenActions:
    """The most chosen actions, and what is left."""

    actions: tuple[ChosenAction, ...]
    n_chosen: int
    n_offered: int
    n_rest_images: int


def has_policy(info: TrainingInfo) -> bool:
    """Return whether the job has a phase of `ppo`, trained or not: weights can be all that learns."""
    phases = info.spec.get("finetune", {})
    several = phases if isinstance(phases, list) else [phases]
    return any(phase.get("algorithm", "ppo") == "ppo" for phase in several)


def policy_curves(iterations: Sequence[Mapping[str, float | None]], *, n_actions: int) -> list[LineChart]:
    """Lay out a chart for every figure that has values; `n_actions` tells how large the entropy can be."""
    uniform = f"in nats; uniform over {n_actions} actions: {math.log(max(1, n_actions)):.2f}"
    timesteps = [row.get("timesteps") for row in iterations]
    x = [float(at) if at is not None else float(i + 1) for i, at in enumerate(timesteps)]
    charts = (
        line_chart(
            title,
            x,
            {title: [row.get(key) for row in iterations]},
            note=note or uniform,
            floor=FLOORS.get(key, -math.inf),
        )
        for key, title, note in CURVES
    )
    return [chart for chart in charts if chart is not None]


def reward_curve(reward: RewardSummary) -> LineChart | None:
    """Lay out the reward network's training; None where it was not trained."""
    if len(reward.epochs) < 2:
        return None
    epochs = [float(row.get("epoch", i)) for i, row in enumerate(reward.epochs)]
    return line_chart(
        "Mean squared error",
        epochs,
        {
            "validation": [row.get("validation_mse") for row in reward.epochs],
            "training": [row.get("train_mse") for row in reward.epochs],
        },
        note=f"of predicted against true Dice; epoch {reward.best_epoch} was kept",
        x_name="epoch",
        marker=float(reward.best_epoch),
    )


def reward_findings(reward: RewardSummary) -> list[tuple[str, str, str]]:
    """Return (figure, value, what it means) for the validation figures that are there."""
    return [
        (name, _found(key, reward.validation[key]), meaning)
        for key, name, meaning in FINDINGS
        if key in reward.validation
    ]


def reward_formula(terms: Mapping[str, float]) -> str:
    """Return the reward as a sum, such as `0.5 x reward_net + 0.5 x dice`."""
    used = [(weight, term) for term, weight in terms.items() if weight]
    text = " ".join(f"{'−' if weight < 0 else '+'} {abs(weight):g} × {term}" for weight, term in used)
    return text.removeprefix("+ ")


def reward_source(reward: RewardSummary) -> str:
    """Say where the network's training started, and whether it led anywhere; places are redacted."""
    known = {"embedded": "the embedded checkpoint", "scratch": "random weights"}
    start = known.get(reward.source, redact(reward.source))
    if len(reward.epochs) > 1 and reward.best_epoch == 0:
        return f"{start} and is used as it was: no epoch of training on these images improved it"
    return start


def reward_scales(reward: RewardSummary) -> str:
    """Say what each term was divided by; empty where terms count as they are."""
    if not reward.normalised:
        return ""
    used = [
        f"{term} by {significant(reward.scales[term])}" for term in reward.scales if reward.terms.get(term)
    ]
    return f"Terms were divided by their spread within images first: {', '.join(used)}." if used else ""


def chosen_actions(info: TrainingInfo) -> ChosenActions:
    """Count which actions what ships chose on the test images, most frequent first."""
    labels = {action.index: action.label for action in info.actions}
    counts = [(n, k) for k, n in enumerate(info.results.actions_chosen) if n > 0]
    counts.sort(key=lambda pair: (-pair[0], pair[1]))
    total = sum(n for n, _ in counts)
    shown = counts[:MOST_ACTIONS]
    return ChosenActions(
        actions=tuple(
            ChosenAction(labels.get(k, f"action {k}"), n, round(100 * n / total, 2), k == 0) for n, k in shown
        ),
        n_chosen=len(counts),
        n_offered=len(info.actions),
        n_rest_images=sum(n for n, _ in counts[MOST_ACTIONS:]),
    )


def _found(key: str, value: float) -> str:
    if key == "interval_halfwidth":
        return f"±{figure(value)}" if math.isfinite(value) else "too few images"
    return figure(value, 4 if key == "mse" else 3)
