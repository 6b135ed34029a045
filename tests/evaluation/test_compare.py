"""Comparing runs: which images are paired, what is tested, and what is refused."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.checks.result import CheckResult
from job.errors import InputError, IntegrityError, SpecError
from job.evaluation.compare import Comparison, Run, compare, open_runs
from job.metrics.statistics import paired_uplift
from job.reward.terms import METRICS
from tests.evaluation.made_up_runs import metrics_of, write_run

BASE = np.array([0.80, 0.82, 0.78, 0.85, 0.81, 0.79, 0.83, 0.80])
GAIN = np.array([0.02, 0.01, 0.03, 0.02, 0.015, 0.025, 0.02, 0.01])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs on the same images, read once."""
    place = tmp_path_factory.mktemp("two")
    return open_runs([str(write_run(place / "a", BASE)), str(write_run(place / "b", BASE + GAIN))])


def compared(*folders: Path) -> Comparison:
    return compare(open_runs([str(folder) for folder in folders]))


def test_differences_are_paired_by_image_and_tested_over_patients(tmp_path: Path) -> None:
    """The gain of every image counts, its 95 % interval included, and p is the exact sign-flip test's."""
    found = compared(write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE + GAIN))
    difference = found.differences[0].dice
    expected = paired_uplift(GAIN, np.zeros(8), [str(i) for i in range(8)], confidence=0.95)
    assert (difference.mean, difference.low, difference.high) == pytest.approx(
        (GAIN.mean(), expected.low, expected.high)
    )
    signs = np.array(list(itertools.product((-1, 1), repeat=len(GAIN))))
    p = (abs(signs @ GAIN) >= GAIN.sum() - 1e-12).mean()
    assert found.differences[0].holm_p == pytest.approx(p) == 2 / 2 ** len(GAIN)
    assert (difference.wins, difference.ties, difference.losses) == (8, 0, 0)


def test_every_metric_is_compared(tmp_path: Path) -> None:
    """Means of each run and differences exist for all metrics, with the sign of second minus first."""
    found = compared(write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE + GAIN))
    before, after = metrics_of(BASE), metrics_of(BASE + GAIN)
    for metric in METRICS:
        assert found.runs[1].after[metric].mean == pytest.approx(after[metric].mean())
        assert found.runs[0].before[metric].mean == pytest.approx(metrics_of(np.full(1, 0.8))[metric].mean())
        expected = (after[metric] - before[metric]).mean()
        assert found.differences[0].by_metric[metric].mean == pytest.approx(expected)


def test_images_are_matched_by_their_pixels_whatever_their_order_and_name(tmp_path: Path) -> None:
    """A run that lists the same images in another order gives the same comparison."""
    straight = write_run(tmp_path / "straight", BASE + GAIN)
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    shuffled = write_run(
        tmp_path / "shuffled", (BASE + GAIN)[order], pixels=[str(i) for i in order], name="straight"
    )
    first = write_run(tmp_path / "first", BASE)
    a, b = compared(first, straight), compared(first, shuffled)
    assert a.images == b.images
    assert a.differences[0].dice == b.differences[0].dice


def test_only_shared_images_count_and_the_others_are_counted(tmp_path: Path) -> None:
    """Where runs share some images, the rest changes nothing and each run says how many it left out."""
    a = write_run(tmp_path / "a", [0.1, 0.5, 0.6, 0.7], pixels=["only_a", "x", "y", "z"])
    b = write_run(tmp_path / "b", [0.9, 0.8, 0.7, 0.2, 0.3], pixels=["z", "y", "x", "only_b", "too"])
    found = compared(a, b)
    assert [(image.name, image.dice) for image in found.images] == [
        ("name_x", (0.5, 0.7)), ("name_y", (0.6, 0.8)), ("name_z", (0.7, 0.9)),
    ]  # fmt: skip
    assert [run.left_out for run in found.runs] == [1, 2]
    assert found.runs[0].after["dice"].mean == pytest.approx(0.6)


def test_images_with_equal_pixels_are_paired_one_to_one(tmp_path: Path) -> None:
    """A test set that holds the same picture twice has it twice in the comparison, if the other has too."""
    a = write_run(tmp_path / "a", [0.5, 0.5, 0.6], pixels=["twin", "twin", "x"])
    b = write_run(tmp_path / "b", [0.6, 0.7, 0.7], pixels=["x", "twin", "twin"])
    single = write_run(tmp_path / "single", [0.7, 0.6], pixels=["twin", "x"])
    assert len(compared(a, b).images) == 3
    assert [run.left_out for run in compared(a, single).runs] == [1, 0]


@settings(deadline=None)
@given(st.permutations(range(len(BASE))), st.integers(1, 8))
def test_the_order_and_number_of_images_never_mixes_up_scores(
    two: list[Run], order: list[int], n: int
) -> None:
    """Whatever a run's order and choice of images, each image keeps its own two scores."""
    first, second = two
    chosen = order[:n]
    pixels = tuple(str(i) for i in chosen)
    arms = tuple(
        replace(arm, test={m: values[chosen] for m, values in arm.test.items()}) for arm in second.arms.arms
    )
    few = replace(second.arms, arms=arms, names=pixels, patients=pixels, pixels=pixels)
    found = compare([first, replace(second, arms=few)])
    assert {image.name: image.dice for image in found.images} == {
        f"name_{i}": (BASE[i], (BASE + GAIN)[i]) for i in chosen
    }


def test_p_values_are_corrected_for_all_runs_that_are_compared(tmp_path: Path) -> None:
    """Holm: of three differences with equal p each counts three times; with one run none is corrected."""
    first = write_run(tmp_path / "first", BASE)
    others = [write_run(tmp_path / f"other_{i}", BASE + (i + 1) * GAIN) for i in range(3)]
    alone = compared(first, others[0]).differences[0].holm_p
    assert [d.holm_p for d in compared(first, *others).differences] == pytest.approx([3 * alone] * 3)


def test_the_worst_difference_comes_first(tmp_path: Path) -> None:
    """Images are in the order in which somebody looks for what went wrong, over all other runs."""
    first = write_run(tmp_path / "first", [0.5, 0.5, 0.5])
    second = write_run(tmp_path / "second", [0.6, 0.4, 0.5])
    third = write_run(tmp_path / "third", [0.2, 0.6, 0.6])
    assert [image.name for image in compared(first, second, third).images] == ["name_0", "name_1", "name_2"]


def test_images_of_one_patient_count_as_one(tmp_path: Path) -> None:
    """Eight images of two patients give an interval over two; the first run's patients are taken."""
    patients = ["p", "p", "p", "p", "q", "q", "q", "q"]
    a = write_run(tmp_path / "a", BASE, patients=patients)
    renamed = write_run(tmp_path / "renamed", BASE + GAIN, patients=[f"other {p}" for p in patients])
    regrouped = write_run(tmp_path / "regrouped", BASE + GAIN)
    found = compared(a, renamed)
    assert (found.n_patients, found.differences[0].dice.n_patients, found.equal_patients) == (2, 2, True)
    assert compared(a, regrouped).n_patients == 2
    assert not compared(a, regrouped).equal_patients


def test_one_patient_gives_no_p(tmp_path: Path) -> None:
    """A single patient has a mean and nothing else, and nothing breaks."""
    a, b = (write_run(tmp_path / name, [dice], pixels=["x"]) for name, dice in (("a", 0.5), ("b", 0.6)))
    difference = compared(a, b).differences[0]
    assert math.isnan(difference.holm_p)
    assert math.isinf(difference.dice.low)


def test_a_different_start_is_noticed(tmp_path: Path) -> None:
    """Runs whose no-ops score differently do not differ by their training alone."""
    a, b = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE, noop=0.7)
    assert not compared(a, b).equal_noop
    assert compared(a, write_run(tmp_path / "c", BASE)).equal_noop


def test_runs_without_a_common_image_are_refused(tmp_path: Path) -> None:
    """There is nothing to pair; other working widths are named as what may be behind it."""
    a = write_run(tmp_path / "a", [0.5, 0.6], pixels=["x", "y"])
    info = open_runs([str(a), str(write_run(tmp_path / "b", BASE))])[0].info
    narrow = info.data.model_copy(update={"width": 256})
    b = write_run(tmp_path / "narrow", [0.5, 0.6], pixels=["x'", "y'"], data=narrow)
    with pytest.raises(InputError, match="no test image is common to a, narrow") as caught:
        compared(a, b)
    assert "256 px, their own" in caught.value.advice


def test_an_invalid_run_is_refused_and_its_failed_checks_are_named(tmp_path: Path) -> None:
    """Figures of a run whose validity checks failed prove nothing, next to which other run ever."""
    good = write_run(tmp_path / "good", BASE)
    check = CheckResult("split_leak", 1.0, 0.9, "validity", "failed", "two images are the same", "")
    bad = write_run(tmp_path / "bad", BASE, verdict="invalid", checks=[check], is_finished=False)
    with pytest.raises(InputError, match=r"bad: the run is invalid .*; failed: split_leak"):
        compared(good, bad)


def test_runs_are_named_by_folder_candidate_or_their_newest(tmp_path: Path) -> None:
    """The same ways as for `evaluate` and `predict`."""
    a = write_run(tmp_path / "a" / "r1", BASE, name="a")
    b = write_run(tmp_path / "b" / "r1", BASE, name="b")
    (b / "candidate.json").write_text("{}")
    labels = [run.label for run in open_runs([str(tmp_path / "a"), str(b / "candidate.json")])]
    assert labels == ["a", "b"]
    assert [run.label for run in open_runs([a.as_uri(), str(b)])] == ["a", "b"]


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    """The name where it does, else the run_id too, else the place."""
    a, b = (write_run(tmp_path / place, BASE, name="same") for place in ("a", "b"))
    assert [run.label for run in open_runs([str(a), str(b)])] == [str(a), str(b)]
    assert [run.label for run in open_runs([a.as_uri(), str(b)])] == [a.as_uri(), str(b)]  # not a copy's
    c = write_run(tmp_path / "c", BASE, name="same", run_id="0123")
    labels = [run.label for run in open_runs([str(a), str(c)])]
    assert labels[1].endswith("/0123")
    assert labels[0] != labels[1]


@pytest.mark.parametrize("lost", ["training_info.json", "evaluation/measured.safetensors", "_SUCCESS"])
def test_what_is_missing_is_named(tmp_path: Path, lost: str) -> None:
    """A run that is not there, not finished, or older than the file of measures."""
    a, b = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE)
    (b / lost).unlink()
    if lost == "training_info.json":
        (b / "_SUCCESS").unlink()
    with pytest.raises(InputError) as caught:
        compared(a, b)
    assert "b" in str(caught.value)
    assert caught.value.advice


def test_a_place_that_is_no_folder_is_an_input_error(tmp_path: Path) -> None:
    """A typing error in a path is answered with the path."""
    with pytest.raises(InputError, match="nowhere: no such run"):
        open_runs([str(write_run(tmp_path / "a", BASE)), str(tmp_path / "nowhere")])


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    """A record of another version, scores that are no numbers, and measures without what ships."""
    a, b, c = (write_run(tmp_path / name, BASE) for name in "abc")
    (b / "training_info.json").write_text('{"name": "b"}')
    with pytest.raises(IntegrityError, match=r"training_info\.json is not a record of this version"):
        compared(a, b)
    write_run(tmp_path / "nan", [math.nan, *BASE[1:]])
    with pytest.raises(IntegrityError, match="not of the same images"):
        compared(a, tmp_path / "nan")
    text = (c / "training_info.json").read_text()
    (c / "training_info.json").write_text(text.replace('"ships":"ppo"', '"ships":"ridge"'))
    with pytest.raises(IntegrityError, match="nothing about ridge"):
        compared(a, c)


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    """Naming one run twice is a slip of the command line, by whatever name."""
    a = write_run(tmp_path / "runs" / "a", BASE)
    with pytest.raises(SpecError, match="named twice"):
        open_runs([str(a), str(tmp_path / "runs")])
    with pytest.raises(SpecError, match="nothing to be compared with"):
        open_runs([str(a)])
