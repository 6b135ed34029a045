"""Faults of the kind that ruined the reference experiment, in real jobs: each is named by its check."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from job.reward import network_file
from tests.e2e.child import Job

SMALL: dict[str, Any] = {
    "data": {"synthetic": {"train": 8, "validation": 6, "test": 8, "size": 64}},
    "actions": {
        "prompts": ["Please segment the retinal blood vessels.", "Segment the major vessels."],
        "postprocess": [{"threshold": 0.5}, {"threshold": 0.2}, {"threshold": 0.8}],
    },
    "reward": {"network": {"epochs": 1}},
    "finetune": {"total_timesteps": 256, "n_steps": 32, "batch_size": 32, "seeds": 1},
}

PPO = {"algorithm": "ppo", **SMALL["finetune"]}


def run(job: Job, folder: Path, **sections: Any) -> tuple[int, dict[str, Any]]:
    """Run a small job with changed sections; return its exit code and its training_info."""
    spec = {"name": "fault", **SMALL, **sections}
    (folder / "spec.json").write_text(json.dumps(spec))
    done = job("spec.json", "--set", "runtime.threads=1", cwd=folder)
    finished = done.named("job.finished")
    assert finished, done.stderr
    return done.code, json.loads(Path(finished[-1]["run_uri"], "training_info.json").read_text())


def failed(info: dict[str, Any]) -> set[str]:
    """Return the names of the checks that failed."""
    checks = info["checks"] + info["results"]["checks"]
    return {check["name"] for check in checks if check["outcome"] == "failed"}


def assert_invalid(code: int, info: dict[str, Any], check: str) -> None:
    """Check that the job ended invalid by that check, without PPO, with the simple candidates judged."""
    assert code == 5
    assert info["results"]["verdict"]["verdict"] == "invalid"
    assert check in failed(info)
    assert info["finetune"]["total_timesteps"] == 0
    rungs = {row["candidate"] for row in info["results"]["ladder"]}
    assert {"noop", "best_fixed", "ridge", "oracle"} <= rungs
    assert "ppo" not in rungs


@pytest.fixture
def dataset(job: Job, tmp_path: Path) -> Path:
    """A dataset folder of its own."""
    counts = ("--train", "8", "--validation", "6", "--test", "8", "--size", "64")
    assert job("dataset", "make", "data", *counts, cwd=tmp_path).code == 0
    return tmp_path / "data"


def test_a_collapsed_reward_is_found_by_its_variance(job: Job, tmp_path: Path) -> None:
    """A network that gives every mask the same score leaves nothing to learn: invalid, and again at once."""
    network = network_file.load(network_file.EMBEDDED)
    with torch.no_grad():
        network.correction[-1].bias += 30.0  # every quality saturates at 1
    network_file.save(network, tmp_path / "collapsed.safetensors")
    reward = {"terms": {"reward_net": 1.0}, "network": {"uri": "collapsed.safetensors", "epochs": 0}}
    code, info = run(job, tmp_path, reward=reward)
    assert_invalid(code, info, "reward_variance")
    again = job("spec.json", "--set", "runtime.threads=1", cwd=tmp_path)
    assert again.code == 5
    assert "job.already_done" in again.stdout
    assert not list(tmp_path.glob("output/runs/fault/*/_SUCCESS"))


def test_a_worthless_network_by_which_nothing_learns_is_advice(job: Job, tmp_path: Path) -> None:
    """The network that the reward may not rest on: a supervised phase is trained all the same."""
    network = network_file.load(network_file.EMBEDDED)
    with torch.no_grad():
        network.correction[-1].bias += 30.0
    network_file.save(network, tmp_path / "collapsed.safetensors")
    reward = {"network": {"uri": "collapsed.safetensors", "epochs": 0}}
    sft = {"algorithm": "sft", "steps": 2, "crop": 64, "batch_size": 2}
    code, info = run(job, tmp_path, reward=reward, finetune=[sft])
    assert code == 0
    assert [phase["name"] for phase in info["weights"]] == ["sft"]
    assert info["skipped"] == []
    (check,) = [check for check in info["checks"] if check["name"] == "proxy_quality"]
    assert (check["outcome"], check["severity"]) == ("failed", "advice")
    assert_invalid(*run(job, tmp_path, reward=reward, finetune=[PPO, sft]), "proxy_quality")


def test_inert_actions_are_found_by_mask_diversity(job: Job, tmp_path: Path) -> None:
    """Actions that make the same masks are no choice, and what would be trained is told as skipped."""
    postprocess = [{"threshold": 0.5}, {"threshold": 0.5001}, {"threshold": 0.5002}]
    actions = {"prompts": SMALL["actions"]["prompts"][:1], "postprocess": postprocess}
    finetune = [PPO, {"algorithm": "sft"}]
    code, info = run(job, tmp_path, actions=actions, finetune=finetune)
    assert_invalid(code, info, "mask_diversity")
    assert (info["weights"], info["skipped"]) == ([], ["ppo", "sft"])
    report = Path(info["run_uri"], "report.md").read_text()
    assert "\n## Weights\n\nPPO policy, Supervised fine-tuning: not trained" in report


def test_swapped_images_are_found_by_the_proxys_quality(job: Job, tmp_path: Path, dataset: Path) -> None:
    """Photographs paired with other patients' masks, as a list sorted differently does."""
    images = sorted((dataset / "images").iterdir())
    pixels = [image.read_bytes() for image in images]
    for image, other in zip(images, [*pixels[1:], pixels[0]], strict=True):
        image.write_bytes(other)
    assert_invalid(*run(job, tmp_path, data={"uri": "data"}), "proxy_quality")


def test_a_leaked_split_is_found(job: Job, tmp_path: Path, dataset: Path) -> None:
    """A training photograph among the test images under another name and encoding."""
    images = sorted((dataset / "images").iterdir())
    train = next(image for image in images if image.name.startswith("train"))
    test = next(image for image in images if image.name.startswith("test"))
    with Image.open(train) as picture:
        picture.convert("RGB").point(lambda level: min(255, level + 6)).save(test)
    (dataset / "masks" / test.name).write_bytes((dataset / "masks" / train.name).read_bytes())
    assert_invalid(*run(job, tmp_path, data={"uri": "data"}), "split_leak")


def test_a_reward_of_recall_alone_is_not_taken_for_an_improvement(job: Job, tmp_path: Path) -> None:
    """Recall pays for marking everything: the term audit or the check for reward hacking says so."""
    prompts = SMALL["actions"]["prompts"][:1]
    postprocess = [{"threshold": threshold} for threshold in (0.5, 0.05, 0.01, 0.002)]
    reward = {"terms": {"recall": 1.0}, "network": {"epochs": 1}}
    actions = {"prompts": prompts, "postprocess": postprocess}
    code, info = run(job, tmp_path, reward=reward, actions=actions)
    assert failed(info) & {"reward_hacking", "term_audit"}
    assert info["results"]["verdict"]["verdict"] != "improved"
    # Nor where the audit's threshold lets it learn: then the check on the candidate drops it.
    code, info = run(job, tmp_path, reward=reward, actions=actions, checks={"min_term_correlation": -1.0})
    assert code == 0
    assert "reward_hacking" in failed(info)
    assert info["results"]["verdict"]["ships"] != "ppo"


def test_a_policy_that_stayed_near_uniform_does_not_ship(job: Job, tmp_path: Path) -> None:
    """Hardly trained from a random start, the policy has learned nothing, whatever it scores."""
    finetune = {**SMALL["finetune"], "init": "random", "total_timesteps": 64, "learning_rate": 1e-6}
    code, info = run(job, tmp_path, finetune=finetune)
    assert code == 0
    assert "learning" in failed(info)
    row = next(row for row in info["results"]["ladder"] if row["candidate"] == "ppo")
    assert "learning" in row["dropped_by"]
    assert not row["ships"]


def test_masks_that_are_all_empty_are_refused(job: Job, tmp_path: Path, dataset: Path) -> None:
    """Nothing can be judged by them: exit 3 names the side and what to look at, instead of a Dice of 0."""
    for mask in (dataset / "masks").glob("test*"):
        with Image.open(mask) as picture:
            picture.point(lambda level: 0).save(mask)
    (tmp_path / "spec.json").write_text(json.dumps({"name": "fault", **SMALL, "data": {"uri": "data"}}))
    done = job("spec.json", "--set", "runtime.threads=1", cwd=tmp_path)
    assert done.code == 3
    assert "8 test images are empty" in done.stderr
