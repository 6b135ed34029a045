"""A comparison in words, as text and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from job.evaluation.compare import Comparison, compare, open_runs
from job.report.compare import (
    headline,
    inputs,
    judged,
    sentence,
    spec_differences,
    to_json,
    to_text,
    warnings,
)
from tests.evaluation.made_up_runs import write_run

BASE = np.array([0.80, 0.82, 0.78, 0.85, 0.81, 0.79, 0.83, 0.80])
GAIN = np.array([0.02, 0.01, 0.03, 0.02, 0.015, 0.025, 0.02, 0.01])
MIXED = np.array([0.02, -0.01, 0.03, -0.02, 0.015, -0.025, 0.01, -0.01])


def compared(*folders: Path) -> Comparison:
    return compare(open_runs([str(folder) for folder in folders]))


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (GAIN, "better", "b is better"),
        (-GAIN, "worse", "b is worse"),
        (MIXED, "unclear", "Not shown to differ"),
        (0 * GAIN, "same", "Equal on every image"),
    ],
)
def test_the_answer_follows_interval_and_test(
    tmp_path: Path, change: np.ndarray, verdict: str, words: str
) -> None:
    """A clear gain, a clear loss, chance, and nothing at all each have their own words."""
    found = compared(write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE + change))
    assert judged(found.differences[0]) == verdict
    assert headline(found)[0] == words
    assert "on every image" in headline(found)[0] or "p " in sentence(found, found.differences[0])


def test_five_patients_can_show_nothing(tmp_path: Path) -> None:
    """However clear the gain, no sign-flip test of five patients reaches 5 %."""
    found = compared(write_run(tmp_path / "a", BASE[:5]), write_run(tmp_path / "b", BASE[:5] + 0.1))
    assert found.differences[0].dice.low > 0
    assert judged(found.differences[0]) == "unclear"


def test_correction_can_take_an_answer_back(tmp_path: Path) -> None:
    """Six patients show one difference (p 0.03), and neither of two when both are asked about."""
    first, *others = (write_run(tmp_path / f"r{i}", BASE[:6] + i * GAIN[:6]) for i in range(3))
    assert judged(compared(first, others[0]).differences[0]) == "better"
    both = compared(first, *others)
    assert [judged(difference) for difference in both.differences] == ["unclear", "unclear"]
    assert headline(both) == ("None of 2 runs better than the first", "unsure")


def test_several_runs_are_counted(tmp_path: Path) -> None:
    """With more than one other run the headline counts, and warns of picking the best by these images."""
    found = compared(
        write_run(tmp_path / "a", BASE),
        write_run(tmp_path / "up", BASE + GAIN),
        write_run(tmp_path / "down", BASE - GAIN),
    )
    assert headline(found) == ("1 of 2 runs better than the first, 1 worse", "good")
    assert any("flattered" in warning for warning in warnings(found))


def test_only_the_settings_that_differ_are_listed(tmp_path: Path) -> None:
    """Changed, added and removed settings, by path; secrets never, equal ones neither."""
    a = write_run(tmp_path / "a", BASE, spec={"seed": 0, "extra": {"x": 1}, "storage": {"token": "hunter2"}})
    b = write_run(tmp_path / "b", BASE, spec={"seed": 3, "place": "s3://me:secret@host/data"})
    found = {fact.what: fact.values for fact in spec_differences(compared(a, b))}
    assert found == {
        "name": ("a", "b"),
        "seed": ("0", "3"),
        "extra.x": ("1", "–"),
        "storage.token": ("(hidden)", "–"),
        "place": ("–", "s3://***@host/data"),
    }


def test_equal_digests_are_told_from_different_ones(tmp_path: Path) -> None:
    """Data and results by digest; circumstances only where they differ."""
    a = write_run(tmp_path / "a", BASE)
    b = write_run(tmp_path / "b", BASE, results_digest="0" * 64)
    facts = {fact.what: fact for fact in inputs(compared(a, b))}
    assert facts["Data, test"].is_equal
    assert facts["Segmenter"].is_equal
    assert not facts["Results"].is_equal
    assert "Device" not in facts


def test_another_protocol_is_warned_of(tmp_path: Path) -> None:
    """Figures that were measured by different conventions are not comparable without a word."""
    a = write_run(tmp_path / "a", BASE)
    info = open_runs([str(a), str(write_run(tmp_path / "x", BASE))])[0].info
    other = info.results.model_copy(update={"protocol": {**info.results.protocol, "region": "somewhere"}})
    other = other.model_copy(update={"verdict": other.verdict.model_copy(update={"ships": "ppo"})})
    b = write_run(tmp_path / "b", BASE)
    record = info.model_copy(update={"name": "b", "results": other})
    (b / "training_info.json").write_text(record.model_dump_json())
    assert any("measured differently: Protocol, region" in warning for warning in warnings(compared(a, b)))
    assert warnings(compared(a, tmp_path / "x")) == []


def test_the_text_has_the_answer_first(tmp_path: Path) -> None:
    """Answer, basis, then the tables; file names cannot steer the terminal."""
    a = write_run(tmp_path / "a", BASE, name="evil\x1b[31m")
    text = to_text(compared(a, write_run(tmp_path / "b", BASE + GAIN)))
    lines = text.splitlines()
    assert lines[0] == "b is better"
    assert "+0.019" in lines[1]
    assert "8 better, 0 equal, 0 worse" in lines[1]
    assert lines[3].startswith("8 test images of 8 patients that both runs have")
    assert "\x1b" not in text
    assert all(word in text for word in ("clDice", "Betti-0 error", "what differs", "Results"))


def test_json_has_everything_and_is_strict(tmp_path: Path) -> None:
    """Other programs get the same figures; what is not finite is null."""
    a, b = write_run(tmp_path / "a", [0.5, 0.7]), write_run(tmp_path / "b", [0.6, 0.7])
    found = json.loads(json.dumps(to_json(compared(a, b)), allow_nan=False))
    assert [run["label"] for run in found["runs"]] == ["a", "b"]
    assert found["differences"][0]["metrics"]["dice"]["mean"] == pytest.approx(0.05)
    assert found["per_image"][0] == {"name": "name_1", "patient": "patient_1", "dice": [0.7, 0.7]}
    assert found["spec"]["name"] == ["a", "b"]
    alone = write_run(tmp_path / "alone", [0.5]), write_run(tmp_path / "alone2", [0.6])
    single = json.loads(json.dumps(to_json(compared(*alone)), allow_nan=False))
    assert single["differences"][0]["holm_p"] is None
