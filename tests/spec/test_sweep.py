"""A sweep: which points it makes, and what it refuses, each mistake at its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from job.spec.job import JobSpec
from job.spec.loading import load
from job.spec.problems import SpecProblems
from job.spec.sweep import MOST_POINTS, label, points

GRID = {"finetune.learning_rate": [3e-4, 5e-4], "finetune.n_epochs": [10, 20, 30], "reward.normalise": [True]}


def spec_of(sweep: dict[str, Any], **sections: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "x", **sections, "sweep": sweep})


def problem_of(folder: Path, sweep: dict[str, Any], **sections: Any) -> str:
    """Load a spec whose sweep is wrong; return the one problem, `line:column: path: message`."""
    path = folder / "x.json"
    path.write_text(json.dumps({"name": "x", **sections, "sweep": sweep}, indent=1))
    with pytest.raises(SpecProblems) as caught:
        load(str(path))
    (problem,) = caught.value.problems
    return str(problem).removeprefix(f"{path}:")


def test_points_stand_in_the_order_of_the_grid() -> None:
    """The last field changes fastest, values keep their order, and each point has no sweep of its own."""
    found = points(spec_of(GRID))
    assert [tuple(values.values()) for values, _ in found] == [
        (3e-4, 10, True), (3e-4, 20, True), (3e-4, 30, True),
        (5e-4, 10, True), (5e-4, 20, True), (5e-4, 30, True),
    ]  # fmt: skip
    for values, spec in found:
        assert list(values) == list(GRID)
        assert (spec.finetune.learning_rate, spec.finetune.n_epochs, spec.reward.normalise) == (
            values["finetune.learning_rate"],
            values["finetune.n_epochs"],
            values["reward.normalise"],
        )
        assert spec.sweep == {}


def test_a_spec_without_a_sweep_is_its_own_only_point() -> None:
    """With nothing set."""
    spec = spec_of({}, seed=3)
    assert points(spec) == [({}, spec)]


@given(
    st.sets(st.sampled_from([1, 2, 5, 10]), min_size=1),
    st.sets(st.sampled_from([0.0, 0.01, 0.5]), min_size=1),
    st.booleans(),
)
def test_a_point_is_the_spec_written_out_by_hand(epochs: set[int], weights: set[float], deep: bool) -> None:
    """Equal identity and equal given fields, so that both are one run and share every stage."""
    given: dict[str, Any] = {
        "data": {"synthetic": {"train": 4}, "split": {"kind": "hash", "test": 0.25}},
        "finetune": {"n_steps": 256, **({"net_arch": {"pi": [32]}} if deep else {})},
        "$schema": "job.schema.json",
    }
    sweep = {"finetune.n_epochs": sorted(epochs), "finetune.ent_coef": sorted(weights)}
    found = points(spec_of(sweep, **given))
    assert len(found) == len(epochs) * len(weights)
    for values, spec in found:
        own = {"n_epochs": values["finetune.n_epochs"], "ent_coef": values["finetune.ent_coef"]}
        by_hand = JobSpec.model_validate({"name": "x", **given, "finetune": {**given["finetune"], **own}})
        assert spec == by_hand
        assert spec.identity() == by_hand.identity()
        assert spec.model_fields_set == by_hand.model_fields_set


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("reward.terms.recall", 0.5),
        ("reward.terms", {"dice": 1}),
        ("reward.network.epochs", 7),
        ("finetune.net_arch.pi[0]", 16),
        ("finetune.net_arch", {"pi": [8]}),
        ("finetune.init", "random"),
        ("finetune.policy_uri", None),
    ],
)
def test_a_value_is_written_as_set_writes_it(tmp_path: Path, path: str, value: Any) -> None:
    """A weight joins the default terms, a first layer keeps the second: a path has one meaning everywhere."""
    (tmp_path / "x.json").write_text('{"name": "x", "finetune": {"n_envs": 4}}')
    by_option = load(str(tmp_path / "x.json"), overrides=[f"{path}={json.dumps(value)}"]).spec
    ((values, spec),) = points(spec_of({path: [value]}, finetune={"n_envs": 4}))
    assert values == {path: value}
    assert spec == by_option


def test_the_swept_spec_itself_is_left_as_it_was() -> None:
    """Points are made of copies, also where a swept object is changed on the way."""
    terms = {"dice": 1.0}
    spec = spec_of({"reward.terms": [terms], "finetune.n_epochs": [1, 2]})
    before = spec.model_dump_json()
    points(spec)[0][1].reward.terms["recall"] = 1.0
    assert terms == {"dice": 1.0}
    assert spec.model_dump_json() == before


@pytest.mark.parametrize(
    ("sweep", "sections", "problem"),
    [
        (
            {"data.width": [64]},
            {},
            '4:17: sweep["data.width"]: only fields of finetune and reward can be swept',
        ),
        ({"seed": [1]}, {}, "4:11: sweep.seed: only fields of finetune and reward can be swept"),
        ({"finetune": [{}]}, {}, "4:15: sweep.finetune: only fields of finetune and reward can be swept"),
        (
            {"finetune.policy_uri=a": ["b"]},
            {},
            '4:28: sweep["finetune.policy_uri=a"]: only fields of finetune and reward can be swept',
        ),
        (
            {"finetune.n_epoch": [1]},
            {},
            '4:23: sweep["finetune.n_epoch"]: unknown key; did you mean n_epochs?',
        ),
        (
            {"reward.terms.dise": [1]},
            {},
            '4:24: sweep["reward.terms.dise"]: unknown key; did you mean dice?',
        ),
        ({"finetune.n_envs.x": [1]}, {}, '4:24: sweep["finetune.n_envs.x"]: there is no such field'),
        (
            {"finetune.n_envs.x": [1]},
            {"finetune": {"n_envs": 4}},
            '7:24: sweep["finetune.n_envs.x"]: cannot be set: finetune.n_envs is 4, not an object',
        ),
        (
            {"finetune.n_epochs": [10, "ten"]},
            {},
            '6:4: sweep["finetune.n_epochs"][1]: expected an integer, got "ten"',
        ),
        (
            {"finetune.n_epochs": [10, 20, 0]},
            {},
            '7:4: sweep["finetune.n_epochs"][2]: expected at least 1, got 0',
        ),
        (
            {"finetune.net_arch.pi": [[8], [8, "a"]]},
            {},
            '10:5: sweep["finetune.net_arch.pi"][1][1]: expected an integer, got "a"',
        ),
        (
            {"finetune.net_arch": [{"py": [8]}]},
            {},
            '6:11: sweep["finetune.net_arch"][0].py: unknown key; known here: pi, vf',
        ),
        (
            {"finetune.policy_uri": ["a\0b"]},
            {},
            '5:4: sweep["finetune.policy_uri"][0]: holds a control character, which no place can have in its'
            " name",
        ),
        (
            {"finetune.n_epochs": [10, 20, 10]},
            {},
            '7:4: sweep["finetune.n_epochs"][2]: this value is listed already; remove one',
        ),
        (
            {"reward.terms.dice": [1], "reward.terms": [{"recall": 1}]},
            {},
            '4:24: sweep["reward.terms.dice"]: reward.terms, which holds it, is swept too; remove one',
        ),
        ({"finetune.n_epochs": []}, {}, '4:24: sweep["finetune.n_epochs"]: expected at least 1 entry, got 0'),
        (
            {"finetune.n_epochs": 4},
            {},
            '4:24: sweep["finetune.n_epochs"]: expected a list, got 4; write [4]',
        ),
        (
            {"finetune.batch_size": [64, 512], "finetune.n_steps": [128, 256]},
            {},
            "3:11: sweep: finetune.batch_size 512, finetune.n_steps 128: 512 exceeds n_steps x n_envs = 256;"
            " write at most 256",
        ),
        (
            {"reward.terms": [{"dice": 1}, {"dice": 0}]},
            {},
            '3:11: sweep: reward.terms {"dice": 0}: every weight is 0: the reward would be constant',
        ),
    ],
    ids=lambda part: json.dumps(part) if isinstance(part, dict) else "",
)
def test_what_cannot_be_swept_is_told_at_its_place(
    tmp_path: Path, sweep: dict[str, Any], sections: dict[str, Any], problem: str
) -> None:
    """The field where there is none such, the value that the field refuses, the grid where they clash."""
    assert problem_of(tmp_path, sweep, **sections) == problem


def test_values_that_only_fit_together_may_be_swept_together() -> None:
    """A batch beyond the spec's own rollout is right where the rollout grows with it."""
    with pytest.raises(ValidationError):
        spec_of({"finetune.batch_size": [512]})
    (point,) = points(spec_of({"finetune.batch_size": [512], "finetune.n_steps": [256]}))
    assert point[1].finetune.batch_size == 512


def test_a_grid_has_at_most_256_points() -> None:
    """So many are taken, one more is not."""
    sixteen = list(range(1, 17))
    assert len(points(spec_of({"finetune.n_epochs": sixteen, "finetune.seeds": sixteen}))) == MOST_POINTS
    with pytest.raises(ValidationError, match="makes 272 points; at most 256"):
        spec_of({"finetune.n_epochs": sixteen, "finetune.seeds": [*sixteen, 17]})


def test_a_password_in_a_swept_place_is_not_shown(tmp_path: Path) -> None:
    """It is refused, and neither a value that is wrong nor a combination that is shows it."""
    uri = "https://u:hunter2@h/"
    assert "hunter2" not in problem_of(tmp_path, {"finetune.n_epochs": [uri]})
    clash = {"finetune.policy_uri": [uri], "finetune.batch_size": [512]}
    with pytest.raises(ValidationError, match=r" https://\*\*\*@h/, finetune\.batch_size 512: "):
        spec_of(clash)
    clash["finetune.policy_uri"] = [f"https://hunter2{'x' * 80}@h/"]
    (tmp_path / "y.json").write_text(json.dumps({"name": "x", "sweep": clash}))
    with pytest.raises(SpecProblems, match="looks like a secret") as caught:
        load(str(tmp_path / "y.json"))
    assert "hunter2" not in str(caught.value)


def test_a_label_names_what_a_point_sets() -> None:
    """By the last word of each field, by the whole path where two end alike; as JSON has it, text bare."""
    assert (
        label({"finetune.learning_rate": 5e-4, "finetune.n_epochs": 20})
        == "learning_rate 0.0005, n_epochs 20"
    )
    assert (
        label(
            {"finetune.learning_rate": 1e-3, "reward.network.learning_rate": 1e-2, "finetune.init": "prior"}
        )
        == "finetune.learning_rate 0.001, reward.network.learning_rate 0.01, init prior"
    )
    assert (
        label({"reward.normalise": True, "reward.terms": {"dice": 1}}) == 'normalise true, terms {"dice": 1}'
    )
    assert label({}) == ""


def test_where_a_swept_value_came_from_is_known(tmp_path: Path) -> None:
    """The record names line and column of every listed value, as of any other."""
    (tmp_path / "x.json").write_text('{"name": "x",\n "sweep": {"finetune.n_epochs": [10, 20]}}')
    origins = load(str(tmp_path / "x.json")).origins
    assert origins['sweep["finetune.n_epochs"][1]'].endswith("x.json:2:38")
