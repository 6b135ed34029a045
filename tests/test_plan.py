"""`plan`: what a run would do."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job import inputs as job_inputs
from job.data.samples import SIDES
from job.data.splits import by_hash
from job.errors import InputError
from job.inputs import Found
from job.places import Places
from job.plan import plan
from job.spec.job import JobSpec
from job.spec.loading import LoadedSpec
from job.spec.unwise import warnings
from job.storage.local import exclusive
from job.storage.local_store import LocalStore
from job.storage.run_folder import LOCK, RunFolder


@pytest.fixture(autouse=True)
def _small_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded weights are megabytes: a small file stands for them."""
    (tmp_path / "network").write_text("n")

    def find(spec: JobSpec, places: Places) -> Found:
        return replace(real(spec, places), reward_network=tmp_path / "network")

    real = job_inputs.find
    monkeypatch.setattr(job_inputs, "find", find)


def loaded_of(tmp_path: Path, **sections: Any) -> LoadedSpec:
    document = {"name": "x", "output": {"uri": str(tmp_path / "output")}, **sections}
    return LoadedSpec(JobSpec.model_validate(document), {}, "x.json")


def folder_of(root: Path, n: int) -> Path:
    """Make a dataset folder of n patients whose pictures hold nothing."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
        for i in range(n):
            (root / folder / f"p{i:02d}.png").touch()
    return root


def lines_of(text: str) -> dict[str, str]:
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}


def test_it_names_run_data_actions_and_whole_rollouts(tmp_path: Path) -> None:
    """Steps are rounded up to rollouts, as PPO takes them."""
    loaded = loaded_of(
        tmp_path,
        data={"synthetic": {"train": 6, "validation": 4, "test": 5, "size": 64}},
        actions={"prompts": ["a", "b"], "postprocess": [{"threshold": 0.5}, {"threshold": 0.7}]},
        reward={"terms": {"dice": 0.25, "reward_net": 0.75}},
        finetune={"total_timesteps": 100, "n_steps": 16, "n_envs": 2, "batch_size": 16},
    )
    lines = lines_of(plan(loaded))
    identity = job_inputs.find(loaded.spec, Places.of(loaded.spec)).identity(loaded.spec)
    assert lines["run"] == str((tmp_path / "output" / "runs" / "x" / identity[:12]).resolve())
    assert lines["state"] == "new"
    assert "6 training, 4 validation, 5 test images of 64 px" in lines["data"]
    assert lines["actions"].startswith("K = 4: 2 prompts x 2 post-processings")
    assert sorted(lines["reward"].split(" + ")) == ["0.25 dice", "0.75 reward_net"]
    assert "128 steps (4 rollouts of 32)" in lines["finetune"]


def test_it_says_how_often_it_would_train(tmp_path: Path) -> None:
    """Seeds, points of a sweep, and folds: each multiplies the time that a run takes."""
    assert ", seeds: 3, start: prior, " in lines_of(plan(loaded_of(tmp_path)))["finetune"]
    assert "sweep" not in lines_of(plan(loaded_of(tmp_path)))
    sweep = {"finetune.learning_rate": [3e-4, 5e-4], "finetune.n_epochs": [10, 20, 30]}
    assert lines_of(plan(loaded_of(tmp_path, sweep=sweep)))["sweep"] == (
        "6 points, of which validation images choose one: finetune.learning_rate 0.0003, 0.0005;"
        " finetune.n_epochs 10, 20, 30"
    )
    data = {"uri": str(folder_of(tmp_path / "data", 9)), "split": {"kind": "folds", "k": 4}}
    assert lines_of(plan(loaded_of(tmp_path, data=data)))["data"].endswith(
        "split: folds, k = 4 of 9 patients: as many runs, each tested on 2 to 3, every patient once"
    )


def test_it_says_who_is_on_which_side(tmp_path: Path) -> None:
    """Images and patients of each side, without a picture being decoded."""
    data = {"uri": str(folder_of(tmp_path / "data", 20)), "split": {"kind": "hash"}}
    sides = by_hash([f"p{i:02d}" for i in range(20)], validation=0.2, test=0.3)
    wanted = ", ".join(f"{list(sides.values()).count(side)} {side}" for side in SIDES)
    planned = lines_of(plan(loaded_of(tmp_path, data=data)))["data"]
    assert planned.endswith(f"split: hash: {wanted} images of 20 patients")


@pytest.mark.parametrize(("n", "split"), [(2, {"kind": "auto"}), (4, {"kind": "folds", "k": 5})])
def test_a_side_that_stays_empty_is_found(tmp_path: Path, n: int, split: dict[str, Any]) -> None:
    """As the run would end, so does the plan: exit code 3, before anything is computed."""
    data = {"uri": str(folder_of(tmp_path / "data", n)), "split": split}
    with pytest.raises(InputError, match=r"data\.split"):
        plan(loaded_of(tmp_path, data=data))


def test_it_says_what_it_would_find_done(tmp_path: Path) -> None:
    """New, stopped at a stage, finished with a verdict."""
    loaded = loaded_of(tmp_path)
    folder = Path(lines_of(plan(loaded))["run"])
    run = RunFolder(folder.parents[2], "x", folder.name)
    run.write_status(stage="reward")
    assert "stopped at reward" in lines_of(plan(loaded))["state"]
    run.seal(exit_code=0, verdict="improved", identity="x")
    assert "(improved): running it again does nothing" in lines_of(plan(loaded))["state"]


def test_planning_writes_nothing_and_fails_as_the_run_would(tmp_path: Path) -> None:
    """Missing inputs are found before anything slow begins."""
    plan(loaded_of(tmp_path))
    assert not (tmp_path / "output").exists()
    with pytest.raises(InputError, match=r"data\.uri"):
        plan(loaded_of(tmp_path, data={"uri": str(tmp_path / "nowhere")}))


def test_what_is_unwise_is_in_the_plan(tmp_path: Path) -> None:
    """Each in a line of its own."""
    loaded = loaded_of(tmp_path, finetune={"total_timesteps": 10, "rollout": "live"})
    planned = plan(loaded).splitlines()
    assert planned[-2:] == [f"warning    {warning}" for warning in warnings(loaded)]


def test_it_says_who_works_on_the_run(tmp_path: Path) -> None:
    """On this machine, told by its lock, and at which stage."""
    loaded = loaded_of(tmp_path)
    folder = Path(lines_of(plan(loaded))["run"])
    run = RunFolder(folder.parents[2], "x", folder.name)
    run.write_status(stage="reward")
    with exclusive(run.path / LOCK, "run"):
        state = lines_of(plan(loaded))["state"]
    assert state == "held by another attempt on this machine, at the stage reward"
    assert "stopped at reward" in lines_of(plan(loaded))["state"]


def test_it_reads_the_lease_of_a_run_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine works on it, has let go of it, or fell silent."""
    places = Places(tmp_path / "copy", tmp_path / "cache", LocalStore(tmp_path / "far"), is_remote=True)
    monkeypatch.setattr(Places, "of", lambda spec: places)
    loaded = loaded_of(tmp_path)
    uri = lines_of(plan(loaded))["run"]
    assert lines_of(plan(loaded))["state"] == "new"
    key = f"{uri.removeprefix(places.store.uri + '/')}/lease.json"
    lease = {"holder": "node-7", "attempt": 2, "ttl_s": 60.0, "released": False, "facts": {"stage": "audit"}}
    places.store.write(key, json.dumps(lease).encode())
    state = lines_of(plan(loaded))["state"]
    assert state.startswith("held by another attempt: node-7, attempt 2, heard of ")
    assert state.endswith(" s ago, at the stage audit")
    os.utime(tmp_path / "far" / key, (0, 0))
    assert lines_of(plan(loaded))["state"] == "stopped at audit: finished stages are taken over"
    places.store.write(key, json.dumps({**lease, "released": True}).encode())
    assert lines_of(plan(loaded))["state"] == "stopped at audit: finished stages are taken over"


def test_every_phase_has_a_line(tmp_path: Path) -> None:
    """In their order, with what each starts from; without a policy none is announced, nor warned of."""
    phases = [{"algorithm": "sft", "steps": 9, "batch_size": 2, "crop": None}, {"algorithm": "grpo"}]
    loaded = loaded_of(tmp_path, finetune=phases, actions={"prompts": ["a", "b"]})
    lines = [line.split(maxsplit=1)[1] for line in plan(loaded).splitlines() if line.startswith("finetune")]
    assert lines[0].startswith("sft, at most 9 steps of 2 whole images, from the segmenter's weights")
    assert lines[1].startswith("grpo, at most ")
    assert "from those of sft" in lines[1]
    assert len(lines) == 2
    assert warnings(loaded) == []


@pytest.mark.parametrize(
    ("reward", "phase", "teachers"),
    [
        ({"dice": 1}, {"algorithm": "sft"}, "the images' masks"),
        (
            {"dice": 1},
            {"algorithm": "sft", "cldice_weight": 0.5},
            "the images' masks, soft clDice with weight 0.5",
        ),
        (
            {"reward_net": 1},
            {"algorithm": "grpo"},
            "1 dice on labelled images, by their masks; reward networks on unlabelled ones"
            " (unlabelled_share 0.5)",
        ),
        (
            {"reward_net": 0.5, "cldice": 0.5},
            {"algorithm": "grpo", "unlabelled_share": 0.25},
            "1 cldice on labelled images, by their masks; reward networks on unlabelled ones"
            " (unlabelled_share 0.25)",
        ),
        (
            {"dice": 1},
            {"algorithm": "grpo", "terms": {"dice": 0.75, "betti": 0.25}, "dice_slack": 0.01},
            "0.75 dice + 0.25 betti on labelled images, by their masks; reward networks on unlabelled ones"
            " (unlabelled_share 0.5), dice_slack 0.01",
        ),
        (
            {"dice": 1},
            {"algorithm": "grpo", "unlabelled_share": 0},
            "1 dice on labelled images, by their masks (unlabelled_share 0)",
        ),
        (
            {"dice": 1},
            {"algorithm": "grpo", "unlabelled_share": 1},
            "reward networks on unlabelled images (unlabelled_share 1; without any: 1 dice on labelled"
            " images, by their masks)",
        ),
        (
            {"dice": 1},
            {"algorithm": "grpo", "hide_labels": True},
            "reward networks on all training images (hide_labels)",
        ),
    ],
)
def test_a_phase_says_what_it_learns_from(
    tmp_path: Path, reward: dict[str, float], phase: dict[str, Any], teachers: str
) -> None:
    """Whichever terms it takes: its own, the true ones of the reward, or Dice."""
    loaded = loaded_of(tmp_path, reward={"terms": reward}, finetune=phase)
    assert lines_of(plan(loaded))["finetune"].endswith(f", learns from {teachers}")


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"synthetic": {"size": 128}}, "4 crops of 256 px (as wide as the images: 128 px), "),
        ({"width": 192}, "4 crops of 256 px (as wide as the images: 192 px), "),
        ({"width": 256}, "4 crops of 256 px, "),
    ],
)
def test_crops_that_end_at_the_image_are_said_to(tmp_path: Path, data: dict[str, Any], note: str) -> None:
    """Where the width is known before any picture is read; it is no mistake."""
    loaded = loaded_of(tmp_path, finetune={"algorithm": "sft"}, data=data)
    assert note in plan(loaded)


def test_crops_of_images_of_unknown_width_are_as_the_spec_says(tmp_path: Path) -> None:
    """A folder's pictures are not read for it."""
    data = {"uri": str(folder_of(tmp_path / "data", 9))}
    assert "4 crops of 256 px, " in plan(loaded_of(tmp_path, finetune={"algorithm": "sft"}, data=data))
