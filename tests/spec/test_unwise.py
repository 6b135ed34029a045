"""What a spec may say but is warned of."""

from typing import Any

import pytest

from job.spec.job import JobSpec
from job.spec.loading import LoadedSpec
from job.spec.unwise import warnings

ONE_PROMPT = {"prompts": ["a"], "postprocess": [{"threshold": t / 10} for t in range(1, 9)]}
HIDDEN = {"algorithm": "grpo", "hide_labels": True}


def warnings_of(sections: dict[str, Any]) -> list[str]:
    spec = JobSpec.model_validate({"name": "x", **sections})
    return warnings(LoadedSpec(spec, {}, "x.json"))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"finetune": {"total_timesteps": 399}, "actions": ONE_PROMPT},
            "finetune.total_timesteps 399 is under 50 per action (400 for K = 8)",
        ),
        (
            {"finetune": [{"algorithm": "sft"}, {"algorithm": "ppo", "total_timesteps": 2}]},
            "finetune[1].total_timesteps 2 is under 50 per action",
        ),
        ({"actions": {"prompts": ["a"], "postprocess": [{"threshold": 0.5}]}}, "nothing to choose"),
        ({"data": {"width": 32, "synthetic": {"size": 64}}}, "resizes synthetic images of 64 px"),
        ({"finetune": {"rollout": "live"}}, "finetune.rollout live calls the segmenter at every step; table"),
        (
            {"reward": {"terms": {"dice": 1, "iou": -0.5}}},
            "reward.terms punishes iou, of which more is better",
        ),
        (
            {"finetune": [{"algorithm": "sft"}, {"algorithm": "grpo", "terms": {"dice": -1}}]},
            "finetune[1].terms punishes dice, of which more is better",
        ),
        (
            {"finetune": {**HIDDEN, "unlabelled_share": 0.3}},
            "finetune.unlabelled_share has no effect with hide_labels",
        ),
        ({"finetune": [{**HIDDEN, "round_every": 7}]}, "finetune[0].round_every has no effect"),
        (
            {"finetune": [{**HIDDEN, "terms": {"dice": 1}}]},
            "finetune[0].terms has no effect with hide_labels",
        ),
    ],
)
def test_what_is_unwise_is_said(sections: dict[str, Any], words: str) -> None:
    """Each in one sentence, with the place that errors would name."""
    (found,) = warnings_of(sections)
    assert words in found


@pytest.mark.parametrize(
    "sections",
    [
        {"actions": ONE_PROMPT, "finetune": {"total_timesteps": 400}},
        {"actions": ONE_PROMPT, "finetune": {"total_timesteps": 0}},
        {"data": {"width": 64, "synthetic": {"size": 64}}},
        {"finetune": [{"algorithm": "grpo", "unlabelled_share": 0.3, "terms": {"dice": 1}}]},
        {"finetune": [{**HIDDEN, "unlabelled_share": 0.5}]},
        {"finetune": [{**HIDDEN, "terms": {"cldice": 1}, "dice_slack": 0.01}]},
    ],
)
def test_what_is_sensible_passes_in_silence(sections: dict[str, Any]) -> None:
    """The boundary of a rule, a policy that is only judged, what changes nothing, and what has its use."""
    assert warnings_of(sections) == []
