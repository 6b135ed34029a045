"""Nights with growing data on a real server: what they compute, promote, keep and say."""

import csv
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job.publish.champion import ChampionFile
from job.storage import s3_client
from job.storage.uris import open_store
from tests.e2e.child import Finished
from tests.e2e.nights import PROMPTS, Album, Clinic, Night
from tests.s3_server import Server

pytestmark = pytest.mark.timeout(900)  # the first test pays for all the nights

KNOWN, ALL = 32, 40
NEW = range(KNOWN, ALL)
HEAVY = {"torch", "transformers", "stable_baselines3", "matplotlib"}
TINY = {"total_timesteps": 64, "n_steps": 16, "batch_size": 16, "seeds": 1}


@dataclass(frozen=True)
class Week:
    """Four nights and the mornings after; the veiled photographs are new in the third night."""

    first: Night
    """Two poor thresholds to choose from; there is no champion yet."""
    idle: Night
    """Nothing is new."""
    grown: Night
    """More photographs."""
    better: Night
    """A good threshold to choose, too."""
    rolled_back: ChampionFile
    status: list[dict[str, Any]]
    """After the rollback."""
    predicted: Finished
    masks: Path
    """What `predict --model` made of the new photographs after the rollback."""
    again: Night
    """The last night's command once more, now to keep one run."""
    keys: list[str]
    """In the results, after that."""
    album: Album


@pytest.fixture(scope="module")
def week(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """Everything that these tests look at; they change nothing."""
    place = tmp_path_factory.mktemp("nights")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        s3_client.forget()
        # All workers share the server, and each counts its folders from 0.
        bucket = f"s3://{s3_server.bucket}/{place.name}-{uuid.uuid4().hex[:8]}"
        yield _live(Clinic(bucket, s3_server.environment), place)
    s3_client.forget()


def _live(clinic: Clinic, place: Path) -> Week:
    album = Album(place / "album", ALL, size=64)
    album.veil(NEW)
    poor, good = (clinic.spec(thresholds, **TINY) for thresholds in ((0.97, 0.9), (0.97, 0.9, 0.5)))
    album.show(clinic.store, KNOWN)
    first = clinic.night(poor, "night-1")
    idle = clinic.night(poor, "night-2", python=("-X", "importtime"))
    album.show(clinic.store, ALL)
    grown, better = clinic.night(poor, "night-3"), clinic.night(good, "night-4")
    promoted = clinic.command("promote", clinic.model, "--to", "previous", machine=place)
    assert promoted.code == 0, promoted.stderr
    rolled_back = clinic.champion
    assert rolled_back is not None
    status = clinic.command("status", clinic.results, "--json", machine=place)
    predicted = clinic.command(
        "predict", "--model", clinic.model, str(album.pictures(NEW, place / "new")), "--output", "masks",
        machine=place,
    )  # fmt: skip
    good["output"]["keep_runs"] = 1
    again = clinic.night(good, "night-4", python=("-X", "importtime"))
    return Week(
        first, idle, grown, better, rolled_back, [json.loads(line) for line in status.stdout.splitlines()],
        predicted, place / "masks", again, [stat.key for stat in open_store(clinic.results).entries()], album,
    )  # fmt: skip


def test_only_new_images_cost_model_calls(week: Week) -> None:
    """A machine with an empty disk asks the model for nothing that an earlier night has asked it."""
    nights = (week.first, week.grown, week.better)
    assert [night.ended.code for night in nights] == [0, 0, 0]
    assert [night.model_calls for night in nights] == [n * len(PROMPTS) for n in (KNOWN, len(NEW), 0)]
    assert week.grown.ended.named("table.summary")[0]["rows_reused"] > 0
    # New actions are masks of logits that are known: nothing but the table's rows is new.
    assert not week.better.ended.named("segmenter.loaded")


def test_a_night_with_nothing_new_ends_at_once_without_torch(week: Week) -> None:
    """It says so, ends like the night before, leaves no run and loads nothing heavy."""
    (said,) = week.idle.ended.named("job.nothing_new")
    assert said["last_run"] == "runs/nightly/night-1"
    assert week.idle.ended.code == week.first.ended.code == 0
    assert week.idle.seconds < 10
    assert week.idle.processor_s < 5
    assert "job.run" in _imported(week.idle.ended)
    assert not _imported(week.idle.ended) & HEAVY
    assert week.idle.run is None
    assert not [key for key in week.keys if "night-2" in key]


def test_the_chain_of_champions_names_who_followed_whom(week: Week) -> None:
    """The first night makes one, the same candidate is kept, and the better one takes its place."""
    assert [night.info["promotion"]["decision"] for night in (week.first, week.grown, week.better)] == [
        "promote", "keep", "promote",
    ]  # fmt: skip
    first, kept, second = week.first.champion, week.grown.champion, week.better.champion
    assert first is not None
    assert second is not None
    assert kept == first
    assert (first.generation, first.previous, first.by) == (1, None, "job")
    assert (second.generation, second.previous, second.earlier) == (2, first.current, [])
    for night, champion in ((week.first, first), (week.better, second)):
        assert night.run is not None
        assert champion.is_of(night.run.path, night.run.manifest_sha256)
    assert second.vs_champion is not None
    assert second.vs_champion.low > 0
    same, compared = (night.info["promotion"] for night in (week.grown, week.better))
    # The same action scores the same, whether the table judges it or the champion is asked anew.
    assert same["champion_dice"] == same["challenger_dice"]
    assert same["n_images"] > 0
    gain = compared["challenger_dice"]["mean"] - compared["champion_dice"]["mean"]
    assert second.vs_champion.mean == pytest.approx(gain, abs=1e-9)
    assert second.vs_champion.n_patients == compared["n_patients"] >= 6


def test_a_rollback_is_followed_by_predict_and_undone_by_no_repetition(week: Week) -> None:
    """`promote --to previous` puts the old candidate in use; the run that it left does not come back."""
    assert week.first.champion is not None
    back, first = week.rolled_back, week.first.champion
    assert (back.current.run, back.current.manifest_sha256) == (
        first.current.run, first.current.manifest_sha256,
    )  # fmt: skip
    assert (back.generation, back.previous, back.by) == (3, None, "hand")
    assert week.predicted.code == 0, week.predicted.stderr
    with (week.masks / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NEW)
    assert {(row["prompt"], row["postprocess"]) for row in rows} == {(PROMPTS[0], "t 0.9")}
    assert week.again.ended.code == 0, week.again.ended.stderr
    assert week.again.ended.named("job.already_done")
    assert not week.again.ended.named("champion.promoted")
    assert week.again.champion == back


def test_drift_is_what_another_program_computes_from_the_pictures(week: Week) -> None:
    """Shifts of the channels from the files themselves; the champion's Dice from the masks of `predict`."""
    drift = week.grown.info["promotion"]["drift"]
    assert (drift["known_images"], drift["new_images"]) == (KNOWN, len(NEW))
    means = np.array([_channel_means(week.album, number) for number in range(ALL)])
    known, new = means[:KNOWN], means[KNOWN:]
    shifts = (new.mean(axis=0) - known.mean(axis=0)) / known.std(axis=0, ddof=1)
    told = {one["name"]: one["shift"] for one in drift["statistics"]}
    assert [told[f"mean_{colour}"] for colour in ("red", "green", "blue")] == pytest.approx(shifts, abs=1e-3)
    assert told["mean_red"] < -2
    assert drift["sentence"].startswith("Warning: 8 new images: unlike the known ones (mean red ")
    dice = [_dice(week.masks / week.album.file(number, "image").name, week.album.file(number, "mask"))
            for number in NEW]  # fmt: skip
    assert drift["champion_dice_new"]["mean"] == pytest.approx(np.mean(dice), abs=1e-6)
    labels = dict(zip(drift["actions_labels"], drift["actions_new"], strict=True))
    assert {label: share for label, share in labels.items() if share} == {f"'{PROMPTS[0]}' | t 0.9": 1.0}


def test_both_reports_tell_contest_and_drift(week: Week) -> None:
    """The sections are there, with the figures of training_info.json."""
    promotion = week.better.info["promotion"]
    drift = promotion["drift"]
    figures = [
        f"+{promotion['vs_champion']['mean']:.3f}",
        f"{promotion['champion_dice']['mean']:.3f}",
        f"{promotion['challenger_dice']['mean']:.3f}",
        "runs/nightly/night-1",
        f"{drift['champion_dice_known']['mean']:.3f}",
        f"{drift['champion_dice_new']['mean']:.3f}",
        *(f"{one['shift']:+.2f}".replace("-", "−") for one in drift["statistics"]),
    ]
    text = week.better.told["report.md"].decode()
    contest, told = (text.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("Champion", "Drift"))
    page = week.better.told["report.html"].decode()
    sections = {
        name: page.split(f'<section id="{name}"')[1].split("</section>")[0] for name in ("champion", "drift")
    }
    shown = {name: re.sub(r"<[^>]*>", " ", section) for name, section in sections.items()}
    for figure in figures[:4]:
        assert figure in contest
        assert figure in shown["champion"]
    for figure in figures[4:]:
        assert figure in told
        assert figure in shown["drift"]
    assert drift["sentence"] in told
    assert 'class="warning"' in sections["drift"]


def test_status_marks_the_champion_in_the_store(week: Week) -> None:
    """A line a run, newest first, and one of them is in use."""
    assert [(run["run_id"], run["champion"], run["verdict"]) for run in week.status] == [
        ("night-4", False, "improved"), ("night-3", False, "improved"), ("night-1", True, "improved"),
    ]  # fmt: skip


def test_retention_keeps_the_newest_run_and_the_champion_s(week: Week) -> None:
    """The oldest run of all stays while it is in use; the one between goes, whole."""
    assert [event["run_uri"].rpartition("/")[2] for event in week.again.ended.named("run.removed")] == [
        "night-3"
    ]
    assert {key.split("/")[2] for key in week.keys if key.startswith("runs/")} == {"night-1", "night-4"}
    for night in (week.first, week.better):
        assert night.run is not None
        assert {f"{night.run.path}/{one.key}" for one in night.run.manifest.files.values()} <= set(week.keys)


def _imported(ended: Finished) -> set[str]:
    return {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines() if "|" in line}


def _channel_means(album: Album, number: int) -> list[float]:
    with Image.open(album.file(number, "image")) as image, Image.open(album.file(number, "fov")) as fov:
        inside = np.asarray(fov.convert("L")) > 127
        return [float(np.asarray(channel)[inside].mean() / 255) for channel in image.convert("RGB").split()]


def _dice(mask: Path, truth: Path) -> float:
    with Image.open(mask) as one, Image.open(truth) as other:
        ours, theirs = (np.asarray(image.convert("L")) > 127 for image in (one, other))
    return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
