"""The whole job, as a user starts it."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.e2e.child import TINY, Finished, Job

ONE_THREAD = ("--set", "runtime.threads=1")


def test_a_run_leaves_every_named_deliverable(tiny: tuple[Path, Finished]) -> None:
    """The run folder holds the reference experiment's names, the report, the record, manifest and marker."""
    run = tiny[1].run
    for name in (
        "spec.json", "job.log.jsonl", "training_info.json", "report.html", "report.md", "candidate.json",
        "reward/best_reward_net.safetensors", "reward/best_reward_net.pth", "final_model.zip",
        "policy.safetensors", "checkpoints/sa2va_rl_32_steps.zip", "checkpoints/sa2va_rl_64_steps.zip",
        "evaluation/results.json", "evaluation/masks.tar", "splits.json", "manifest.json", "_SUCCESS",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    assert list((run / "logs" / "PPO_1").glob("events.out.tfevents.*"))


def test_the_manifest_names_every_file_with_its_digest(tiny: tuple[Path, Finished]) -> None:
    """Whoever trusts the marker can verify every byte; the marker holds the manifest's own digest."""
    run = tiny[1].run
    manifest = json.loads((run / "manifest.json").read_text())
    assert len(manifest["files"]) > 15
    for name, fact in manifest["files"].items():
        data = (run / name).read_bytes()
        assert fact == {"key": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (run / "_SUCCESS").read_text().strip() == hashlib.sha256(
        (run / "manifest.json").read_bytes()
    ).hexdigest()


def test_the_last_event_tells_how_it_ended(tiny: tuple[Path, Finished]) -> None:
    """Output that is no terminal is JSON lines, the last one job.finished with the answer."""
    done = tiny[1]
    assert len(done.events) == len(done.stdout.splitlines())
    last = done.events[-1]
    assert last["event"] == "job.finished"
    assert last["exit_code"] == 0
    assert last["verdict"] in ("improved", "no-improvement", "inconclusive")
    assert [e["stage"] for e in done.named("stage.finished")] == [
        "pull", "table", "reward", "audit", "finetune", "evaluate",
    ]  # fmt: skip


def test_tensorboard_holds_the_reference_s_tags(tiny: tuple[Path, Finished]) -> None:
    """Tools that were written for the reference experiment find its tags."""
    curves = EventAccumulator(str(tiny[1].run / "logs" / "PPO_1"))
    curves.Reload()
    tags = set(curves.Tags()["scalars"])
    assert {"custom/gt_dice", "custom/reward_net_score", "custom/best_reward", "rollout/ep_rew_mean"} <= tags
    assert any(tag.startswith("train/") for tag in tags)
    assert any(tag.startswith("time/") for tag in tags)


def test_a_finished_run_again_imports_no_torch_and_computes_nothing(tiny: tuple[Path, Finished]) -> None:
    """The same command answers at once, from the manifest."""
    from tests.e2e.child import run_job

    place, first = tiny
    again = run_job(TINY, *ONE_THREAD, cwd=place, python=("-X", "importtime"))
    assert again.code == 0
    assert "job.already_done" in [event["event"] for event in again.events]
    assert again.run == first.run
    imported = {line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines() if "|" in line}
    assert "job.run" in imported
    assert not imported & {"torch", "transformers", "stable_baselines3", "matplotlib"}


def test_the_same_spec_elsewhere_has_the_same_results_digest(tiny: tuple[Path, Finished], job: Job) -> None:
    """Two runs from nothing, same seed and threads: equal bits in everything that counts."""
    again = job(TINY, *ONE_THREAD)
    assert again.code == 0, again.stderr
    assert again.info["results_digest"] == tiny[1].info["results_digest"]
    assert again.info["segmentations"]["computed"] > 0


def test_the_figures_are_those_on_record(tiny: tuple[Path, Finished]) -> None:
    """A change that moves the ladder of specs/tiny.json beyond rounding must say so in golden_tiny.json."""
    golden = json.loads(Path(__file__).with_name("golden_tiny.json").read_text())
    ladder = {row["candidate"]: row for row in tiny[1].info["results"]["ladder"]}
    assert list(ladder) == list(golden)
    for candidate, figures in golden.items():
        row = ladder[candidate]
        assert row["validation_dice"]["mean"] == pytest.approx(figures["validation_dice"], abs=0.01)
        assert row["test"]["dice"]["mean"] == pytest.approx(figures["test_dice"], abs=0.01)
        assert row["test"]["cldice"]["mean"] == pytest.approx(figures["test_cldice"], abs=0.02)


def test_another_seed_has_another_results_digest(tiny: tuple[Path, Finished], job: Job) -> None:
    """The digest depends on what was computed: it is no constant."""
    place, first = tiny
    other = job(TINY, *ONE_THREAD, "--set", "seed=1", cwd=place)
    assert other.info["results_digest"] != first.info["results_digest"]


def test_a_second_spec_takes_over_the_stages_that_it_shares(tiny: tuple[Path, Finished], job: Job) -> None:
    """Another PPO setting trains PPO again and nothing before it; no logits are computed twice."""
    other = job(TINY, *ONE_THREAD, "--set", "finetune.ent_coef=0.02", cwd=tiny[0])
    assert [e["stage"] for e in other.named("stage.reused")] == ["pull", "table", "reward", "audit"]
    assert [e["stage"] for e in other.named("stage.finished")] == ["finetune", "evaluate"]
    assert other.info["segmentations"]["computed"] == 0
    assert not other.named("segmenter.loaded")


def test_test_images_shape_nothing_before_evaluate(tmp_path: Path, job: Job) -> None:
    """Ruining every test image and mask changes what evaluate finds, and where audit looks for leaks."""
    data = tmp_path / "data"
    make = job(
        "dataset", "make", str(data), "--train", "6", "--validation", "4", "--test", "6", "--size", "64"
    )
    assert make.code == 0, make.stderr
    settings = (*ONE_THREAD, "--set", f"data.uri={data}", "--set", 'data.split={"kind":"column"}')
    first = job(TINY, *settings)
    assert first.code == 0, first.stderr
    tests = [e for e in json.loads((data / "annotations.json").read_text()) if e["split"] == "test"]
    assert len(tests) == 6
    for entry in tests:
        for key in ("image", "mask"):
            with Image.open(data / entry[key]) as picture:
                ruined = np.rot90(np.asarray(picture)).copy()
            Image.fromarray(ruined).save(data / entry[key])
    second = job(TINY, *settings)
    assert second.code in (0, 5), second.stderr
    assert [e["stage"] for e in second.named("stage.reused")] == ["table", "reward", "finetune"]
    for stage in ("table", "reward", "finetune"):
        fingerprints = [
            next(s["fingerprint"] for s in run.info["stages"] if s["name"] == stage)
            for run in (first, second)
        ]
        assert fingerprints[0] == fingerprints[1]
    assert first.info["results_digest"] != second.info["results_digest"]


def test_live_rollouts_end_like_table_rollouts(tiny: tuple[Path, Finished], job: Job) -> None:
    """Calling the segmenter at every step gives the table's rewards, within 1e-3, and the same choices."""
    live = job(TINY, *ONE_THREAD, "--set", "finetune.rollout=live", cwd=tiny[0])
    assert live.code == 0, live.stderr
    assert live.named("segmenter.loaded")
    by_table = tiny[1].info["finetune"]["iterations"]
    by_model = live.info["finetune"]["iterations"]
    for ours, theirs in zip(by_table, by_model, strict=True):
        for name in ("ep_rew_mean", "gt_dice", "reward_net_score"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3)
    choices = [[i["action"] for i in run.info["results"]["images"]] for run in (tiny[1], live)]
    assert choices[0] == choices[1]


def test_inert_actions_end_invalid_and_publish_no_marker(job: Job) -> None:
    """Actions that all make the same mask: the check says so by name, exit 5, a report, nothing to trust."""
    same = '[{"threshold":0.5},{"threshold":0.5,"min_area":1}]'
    arguments = (
        TINY,
        *ONE_THREAD,
        "--set",
        'actions.prompts=["vessels"]',
        "--set",
        f"actions.postprocess={same}",
    )
    done = job(*arguments)
    assert done.code == 5, done.stderr
    failed = [
        check["name"]
        for check in done.named("check.result")
        if check["outcome"] == "failed" and check["severity"] == "validity"
    ]
    assert failed == ["mask_diversity"]
    assert done.info["results"]["verdict"]["verdict"] == "invalid"
    assert (done.run / "report.html").is_file()
    assert not (done.run / "_SUCCESS").exists()
    assert not (done.run / "candidate.json").exists()
    assert not (done.run / "final_model.zip").exists()
    again = job(*arguments)
    assert again.code == 5
    assert again.named("job.already_done")


def test_keep_logits_none_leaves_no_logits_and_changes_no_result(
    tiny: tuple[Path, Finished], job: Job
) -> None:
    """Whoever lacks the disk pays with model calls, not with another answer."""
    done = job(TINY, *ONE_THREAD, "--set", "table.keep_logits=none")
    assert done.code == 0, done.stderr
    assert not list(Path(done.run).parents[2].glob("cache/logits/**/*.safetensors"))
    assert done.info["results"] == tiny[1].info["results"]


def test_judging_a_policy_trains_nothing(tiny: tuple[Path, Finished], job: Job) -> None:
    """A spec that names a policy and a network, with no steps and no epochs, judges just these."""
    place, first = tiny
    done = job(
        TINY, *ONE_THREAD, "--set", "name=judge", "--set", "data.synthetic.seed=7",
        "--set", f"finetune.policy_uri={first.run}", "--set", "finetune.total_timesteps=0",
        "--set", f"reward.network.uri={first.run}", "--set", "reward.network.epochs=0", cwd=place,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.info["finetune"]["total_timesteps"] == 0
    from safetensors.numpy import load_file

    ours, theirs = (load_file(run.run / "policy.safetensors") for run in (done, first))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_changed_input_under_the_same_run_id_is_refused(tiny: tuple[Path, Finished], job: Job) -> None:
    """A run id stands for one set of inputs: exit 2 with advice, and the finished run untouched."""
    place, first = tiny
    before = (first.run / "manifest.json").read_bytes()
    done = job(TINY, *ONE_THREAD, "--set", "seed=3", "--run-id", first.run.name, cwd=place)
    assert done.code == 2
    assert "--run-id" in done.stderr
    assert (first.run / "manifest.json").read_bytes() == before


def test_a_broken_stage_is_named_with_what_to_do(
    tiny: tuple[Path, Finished], tmp_path: Path, job: Job
) -> None:
    """A stage record that is no JSON ends with 4 and says which folder to delete."""
    place = tmp_path / "copy"
    shutil.copytree(tiny[0], place)
    record = place / tiny[1].stage("table") / "done.json"
    record.write_text("{")
    done = job(TINY, *ONE_THREAD, "--run-id", "fresh", cwd=place)
    assert done.code == 4
    assert str(record.parent.name) in done.stderr
    assert "delete" in done.stderr


def test_an_edited_stage_reaches_no_report(tiny: tuple[Path, Finished], tmp_path: Path, job: Job) -> None:
    """A number changed by hand in a finished stage ends with 4, names the folder, and publishes nothing."""
    place = tmp_path / "copy"
    shutil.copytree(tiny[0], place)
    results = place / tiny[1].stage("evaluate") / "results.json"
    with results.open("a") as file:
        file.write(" ")
    done = job(TINY, *ONE_THREAD, "--run-id", "edited", cwd=place)
    assert done.code == 4
    assert "results.json is missing, new or changed" in done.stderr
    assert not (place / "output" / "runs" / "tiny" / "edited" / "_SUCCESS").exists()


def test_a_damaged_run_folder_is_published_again(
    tiny: tuple[Path, Finished], tmp_path: Path, job: Job
) -> None:
    """What was lost from a finished run comes back with the same command, without computing anything."""
    place = tmp_path / "copy"
    shutil.copytree(tiny[0], place)
    run = place / tiny[1].run.relative_to(tiny[0])
    (run / "report.html").unlink()
    (run / "report.md").write_text("")
    done = job(TINY, *ONE_THREAD, cwd=place)
    assert done.code == 0, done.stderr
    assert not done.named("stage.finished")
    assert (run / "report.html").stat().st_size > 10_000
    assert done.info["results_digest"] in (run / "report.md").read_text()


def test_a_held_out_picture_among_the_unlabelled_is_a_leak(tmp_path: Path, job: Job) -> None:
    """The same picture under another name must not be learned from: invalid; the report has both names."""
    data = tmp_path / "data"
    make = job(
        "dataset", "make", str(data), "--train", "6", "--validation", "4", "--test", "6", "--size", "64"
    )
    assert make.code == 0, make.stderr
    held_out = next(e for e in json.loads((data / "annotations.json").read_text()) if e["split"] == "test")
    (tmp_path / "more").mkdir()
    shutil.copy(data / held_out["image"], tmp_path / "more" / "innocent.png")
    done = job(
        TINY, *ONE_THREAD, "--set", f"data.uri={data}", "--set", 'data.split={"kind":"column"}',
        "--set", f"data.unlabelled_uri={tmp_path / 'more'}",
    )  # fmt: skip
    assert done.code == 5
    leak = next(check for check in done.named("check.result") if check["name"] == "split_leak")
    assert leak["outcome"] == "failed"
    assert "(unlabelled)" in leak["finding"]
    report = (done.run / "report.md").read_text()
    for name in ("innocent", Path(held_out["image"]).stem):
        assert name in report
        assert name not in done.stdout


def test_an_output_that_cannot_be_written_ends_with_3(tmp_path: Path, job: Job) -> None:
    """A file in the way is the user's to mend, not a defect of the program."""
    (tmp_path / "taken").write_text("")
    done = job(TINY, *ONE_THREAD, "--set", "output.uri=taken/out")
    assert done.code == 3
    assert "output.uri" in done.stderr
    assert "Traceback" not in done.stderr
