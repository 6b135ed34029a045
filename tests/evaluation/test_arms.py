"""Arms on disk, and those of folds as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from job.errors import IntegrityError
from job.evaluation.arms import Arm, Arms, joined
from job.evaluation.results import Experiment
from job.reward.terms import METRICS

SHIPPED = ("ppo", "noop", "ridge")


def made_up(fold: int, n_images: int, left_out: tuple[str, ...] = ()) -> Arms:
    """Arms of a fold with random figures; two validation images."""
    rng = np.random.default_rng(fold)
    experiments: dict[str, Experiment] = {"ppo": "reward-network RL"}
    names = [name for name in ("noop", "best_fixed", "ridge", "ppo", "oracle") if name not in left_out]
    return Arms(
        arms=tuple(
            Arm(
                name=name,
                description=f"action {fold}" if name == "best_fixed" else f"the {name}",
                experiment=experiments.get(name),
                can_ship=name != "oracle",
                left_out_dice=0.5 + fold / 10 if name == "best_fixed" else None,
                validation_dice_M=rng.random(2),
                test={metric: rng.random(n_images) for metric in METRICS},
                actions_N=rng.integers(0, 4, n_images),
                quality_N=rng.random(n_images),
            )
            for name in names
        ),
        names=tuple(f"f{fold}i{i}" for i in range(n_images)),
        patients=tuple(f"f{fold}p{i // 2}" for i in range(n_images)),
        pixels=tuple(f"f{fold}d{i}" for i in range(n_images)),
        validation_patients=(f"f{fold}v0", f"f{fold}v1"),
    )


@pytest.fixture
def folds() -> list[Arms]:
    return [made_up(0, 4), made_up(1, 3), made_up(2, 5)]


def assert_equal(found: Arms, wanted: Arms) -> None:
    """Equal in every bit, type and name."""
    assert replace(found, arms=()) == replace(wanted, arms=())
    assert len(found.arms) == len(wanted.arms)
    for one, other in zip(found.arms, wanted.arms, strict=True):
        facts = ("name", "description", "experiment", "can_ship", "left_out_dice")
        assert [getattr(one, fact) for fact in facts] == [getattr(other, fact) for fact in facts]
        assert set(one.test) == set(other.test)
        pairs = [(one.test[metric], other.test[metric]) for metric in METRICS]
        pairs += [(getattr(one, a), getattr(other, a)) for a in ("validation_dice_M", "quality_N")]
        for left, right in [*pairs, (one.actions_N, other.actions_N)]:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


def test_arms_come_back_from_their_file_bit_for_bit(folds: list[Arms], tmp_path: Path) -> None:
    """Numbers, types, words and nulls."""
    folds[0].save(tmp_path / "measured.safetensors")
    assert_equal(Arms.load(tmp_path / "measured.safetensors"), folds[0])


def test_equal_arms_are_equal_files(folds: list[Arms], tmp_path: Path) -> None:
    """A run that is published again has the same digest."""
    for name in ("a", "b"):
        folds[1].save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_file_is_refused(folds: list[Arms], tmp_path: Path) -> None:
    """One flipped bit among the numbers."""
    path = tmp_path / "measured.safetensors"
    folds[0].save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"measured\.safetensors"):
        Arms.load(path)


def test_arms_are_found_by_name(folds: list[Arms]) -> None:
    """And told from those that are not there."""
    assert folds[0]["ridge"].name == "ridge"
    assert "ridge" in folds[0]
    assert "selected" not in folds[0]
    with pytest.raises(StopIteration):
        folds[0]["selected"]


def test_joined_folds_have_every_test_image_once_under_its_own_fold_s_arm(folds: list[Arms]) -> None:
    """Every figure is that of the fold that tested the image; arms stay simplest first, the oracle last."""
    whole = joined(folds, SHIPPED, "selected")
    assert [arm.name for arm in whole.arms] == ["noop", "best_fixed", "ridge", "ppo", "selected", "oracle"]
    at = 0
    for fold in folds:
        for i, name in enumerate(fold.names):
            assert whole.names[at] == name
            assert whole.patients[at] == fold.patients[i]
            assert whole.pixels[at] == fold.pixels[i]
            for arm in fold.arms:
                for metric in METRICS:
                    assert whole[arm.name].test[metric][at] == arm.test[metric][i]
                assert whole[arm.name].actions_N[at] == arm.actions_N[i]
                assert whole[arm.name].quality_N[at] == arm.quality_N[i]
            at += 1
    assert at == len(whole.names) == 12
    assert whole.validation_patients == tuple(f"f{fold}v{i}" for fold in range(3) for i in range(2))
    np.testing.assert_array_equal(
        whole["ppo"].validation_dice_M, np.concatenate([fold["ppo"].validation_dice_M for fold in folds])
    )


def test_the_selected_arm_is_what_each_fold_shipped(folds: list[Arms]) -> None:
    """Of another candidate in each fold; it answers no experiment and is one that can ship."""
    selected = joined(folds, SHIPPED, "selected")["selected"]
    parts = [fold[ship] for fold, ship in zip(folds, SHIPPED, strict=True)]
    for metric in METRICS:
        np.testing.assert_array_equal(
            selected.test[metric], np.concatenate([part.test[metric] for part in parts])
        )
    np.testing.assert_array_equal(selected.actions_N, np.concatenate([part.actions_N for part in parts]))
    np.testing.assert_array_equal(selected.quality_N, np.concatenate([part.quality_N for part in parts]))
    np.testing.assert_array_equal(
        selected.validation_dice_M, np.concatenate([part.validation_dice_M for part in parts])
    )
    assert (selected.experiment, selected.can_ship, selected.left_out_dice) == (None, True, None)


def test_what_differs_between_folds_is_not_told_as_if_it_did_not(folds: list[Arms]) -> None:
    """The best fixed action is another one in each fold; its left-out Dice is the mean of theirs."""
    whole = joined(folds, SHIPPED, "selected")
    assert whole["best_fixed"].description == "chosen in each fold"
    assert whole["ridge"].description == "the ridge"
    assert whole["best_fixed"].left_out_dice == pytest.approx(0.6)
    assert whole["ridge"].left_out_dice is None
    assert whole["ppo"].experiment == "reward-network RL"


def test_an_arm_that_a_fold_lacks_is_left_out() -> None:
    """A fold whose checks failed trained no policy; its images cannot be judged under one."""
    folds = [made_up(0, 4), made_up(1, 3, left_out=("ppo",))]
    whole = joined(folds, ("ppo", "noop"), "selected")
    assert [arm.name for arm in whole.arms] == ["noop", "best_fixed", "ridge", "selected", "oracle"]
    np.testing.assert_array_equal(whole["selected"].actions_N[:4], folds[0]["ppo"].actions_N)
    with pytest.raises(ValueError):
        joined(folds, ("noop",), "selected")
