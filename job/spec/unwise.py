"""What a spec may say but looks unwise, or has no effect."""

from collections.abc import Mapping
from typing import Any

from job.spec.finetune import FinetuneSpec
from job.spec.loading import LoadedSpec
from job.spec.tuning import GrpoSpec

STEPS_PER_ACTION = 50
"""Fewer PPO steps than this per action leave most actions all but untried."""
_OF_LABELLED = ("unlabelled_share", "round_every", "round_images")
"""Settings of `grpo` that are idle without a labelled image."""


def warnings(loaded: LoadedSpec) -> list[str]:
    """Return what is allowed but looks unwise."""
    spec = loaded.spec
    actions = len(spec.actions.prompts) * len(spec.actions.postprocess)
    found = []
    if actions == 1:
        found.append("there is one action: nothing to choose; add prompts or post-processings")
    if spec.data.uri.startswith("synthetic:") and spec.data.width not in (None, spec.data.synthetic.size):
        found.append(
            f"data.width {spec.data.width} resizes synthetic images of {spec.data.synthetic.size} px"
        )
    if not spec.data.uri.startswith("synthetic:") and "data.synthetic" in " ".join(loaded.origins):
        found.append(f"data.synthetic is ignored: data.uri is {spec.data.uri}")
    found += _punishing("reward", spec.reward.terms)
    network = spec.reward.network
    if network.uri is None and network.init == "scratch" and network.epochs == 0:
        found.append("reward.network has no start and no epochs: its scores will be noise; set epochs or uri")
    for place, phase in spec.phases.items():
        if isinstance(phase, FinetuneSpec):
            found += _of_policy(place, phase, actions)
        elif isinstance(phase, GrpoSpec):
            found += _punishing(place, phase.terms or {})
            found += _idle(place, phase)
    return found


def _of_policy(place: str, phase: FinetuneSpec, actions: int) -> list[str]:
    found = []
    if 0 < phase.total_timesteps < STEPS_PER_ACTION * actions:
        found.append(
            f"{place}.total_timesteps {phase.total_timesteps} is under {STEPS_PER_ACTION} per action"
            f" ({STEPS_PER_ACTION * actions} for K = {actions}): most actions stay all but untried;"
            " raise it, or offer fewer actions"
        )
    if phase.rollout == "live":
        found.append(f"{place}.rollout live calls the segmenter at every step; table gives the same rewards")
    return found


def _punishing(place: str, terms: Mapping[Any, float]) -> list[str]:
    punished = [str(term) for term, weight in terms.items() if weight < 0]
    return [f"{place}.terms punishes {', '.join(punished)}, of which more is better"] if punished else []


def _idle(place: str, phase: GrpoSpec) -> list[str]:
    """Return the settings that change nothing; what is as its default may have come with a copied spec."""
    if not phase.hide_labels:
        return []
    why = "has no effect with hide_labels, which leaves no labelled image"
    fields = type(phase).model_fields
    idle = [name for name in _OF_LABELLED if getattr(phase, name) != fields[name].default]
    found = [f"{place}.{name} {why}" for name in idle]
    if phase.terms and not phase.dice_slack:
        found.append(f"{place}.terms {why}; with dice_slack it would choose the step that is kept")
    return found
