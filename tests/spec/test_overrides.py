from typing import Any

import pytest

from job.spec.job import JobSpec
from job.spec.overrides import merge


@pytest.mark.parametrize(
    ("document", "option", "merged"),
    [
        ({}, "seed=1", {"seed": 1}),
        ({"seed": 0}, "seed=1", {"seed": 1}),
        ({}, "finetune.learning_rate=5e-4", {"finetune": {"learning_rate": 5e-4}}),
        ({}, "data.uri=/data/a=b", {"data": {"uri": "/data/a=b"}}),
        ({}, 'data.uri="1"', {"data": {"uri": "1"}}),
        ({}, "data.uri=", {"data": {"uri": ""}}),
        ({}, "data.width=null", {"data": {"width": None}}),
        ({}, 'data.split={"kind": "column"}', {"data": {"split": {"kind": "column"}}}),
        ({}, "data.split.test=0.4", {"data": {"split": {"kind": "auto", "test": 0.4}}}),
        ({}, "finetune.net_arch.pi[0]=64", {"finetune": {"net_arch": {"pi": [64, 64]}}}),
        ({}, "finetune.net_arch.pi[2]=32", {"finetune": {"net_arch": {"pi": [128, 64, 32]}}}),
        (
            {"finetune": {"net_arch": {"pi": [8]}}},
            "finetune.net_arch.pi[0]=4",
            {"finetune": {"net_arch": {"pi": [4]}}},
        ),
        (
            {"finetune": [{"algorithm": "ppo"}, {"algorithm": "sft"}]},
            "finetune[1].steps=100",
            {"finetune": [{"algorithm": "ppo"}, {"algorithm": "sft", "steps": 100}]},
        ),
        (
            {"finetune": [{"algorithm": "sft"}]},
            "finetune[1].algorithm=grpo",
            {"finetune": [{"algorithm": "sft"}, {"algorithm": "grpo"}]},
        ),
        ({}, "reward.terms.dice=1", {"reward": {"terms": {"reward_net": 0.5, "dice": 1}}}),
        (
            {"reward": {"terms": {"iou": 1}}},
            "reward.terms.dice=1",
            {"reward": {"terms": {"iou": 1, "dice": 1}}},
        ),
    ],
)
def test_an_option_writes_one_place_and_keeps_the_rest(
    document: dict[str, Any], option: str, merged: dict[str, Any]
) -> None:
    """VALUE is JSON or else a string; what the document leaves out starts as its default."""
    before = repr(document)
    result, applied, problems = merge(document, [option], JobSpec)
    assert result == merged
    assert [override.option for override in applied] == [f"--set {option}"]
    assert problems == []
    assert repr(document) == before


def test_later_options_win() -> None:
    """Options are written in the order in which they are given."""
    merged, _, _ = merge({}, ["seed=1", "data={}", "data.width=64", "seed=2"], JobSpec)
    assert merged == {"seed": 2, "data": {"width": 64}}


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("seed", "--set seed: expected PATH=VALUE; write it as --set finetune.learning_rate=5e-4"),
        ("a..b=1", "--set a..b: this is no path into a spec; write it as --set finetune.learning_rate=5e-4"),
        ("[0]=1", "--set [0]: this is no path into a spec; write it as --set finetune.learning_rate=5e-4"),
        ("=1", "--set : this is no path into a spec; write it as --set finetune.learning_rate=5e-4"),
        (
            "a" + ".a" * 20 + "=1",
            "--set a"
            + ".a" * 20
            + ": this is no path into a spec; write it as --set finetune.learning_rate=5e-4",
        ),
        ("seed=NaN", "--set seed=NaN: seed: NaN is not a JSON number; write a finite one"),
        (
            'cache={"uri": "a", "uri": "b"}',
            '--set cache={"uri": "a", "uri": "b"}: cache.uri: duplicate key, first given on line 1; remove'
            " one",
        ),
        (
            'finetune=[{"algorithm":"grpo","steps":4,"steps":10}]',
            '--set finetune=[{"algorithm":"grpo","steps":4,"steps":10}]: finetune[0].steps: duplicate key,'
            " first given on line 1; remove one",
        ),
        ("name.x=1", '--set name.x=1: name.x: cannot be set: name is "n", not an object'),
        ("data[0]=1", "--set data[0]=1: data[0]: cannot be set: data is an empty object, not a list"),
        (
            "finetune.net_arch.vf[9]=1",
            "--set finetune.net_arch.vf[9]=1: finetune.net_arch.vf[9]: cannot be set: "
            "finetune.net_arch.vf has 2 entries, and [2] appends one",
        ),
        (
            "actions.prompts.1=x",
            '--set actions.prompts.1=x: actions.prompts["1"]: cannot be set: actions.prompts is a list, whose'
            " entries go by index: actions.prompts[1]",
        ),
        (
            "actions.prompts.first=x",
            "--set actions.prompts.first=x: actions.prompts.first: cannot be set: actions.prompts is a list,"
            " whose entries go by index: actions.prompts[0]",
        ),
        ("data.uri=\udcff", "--set data.uri=\\udcff: data.uri: the value is not UTF-8"),
        ("name.token=hunter2", '--set name.token=***: name.token: cannot be set: name is "n", not an object'),
    ],
)
def test_an_option_that_cannot_be_written_says_why_and_changes_nothing(option: str, problem: str) -> None:
    """The option itself is the source of the problem, without the secrets in it."""
    document: dict[str, Any] = {"name": "n", "data": {}, "actions": {"prompts": ["a", "b"]}}
    merged, applied, problems = merge(document, [option], JobSpec)
    assert [str(p) for p in problems] == [problem]
    assert applied == []
    assert {key: merged[key] for key in document} == document


@pytest.mark.parametrize(
    ("document", "option", "problem"),
    [
        (
            {"finetune": {"n_envs": 2}},
            "finetune[1].steps=3",
            "finetune is an object, not a list; give the whole list: --set 'finetune=[...]'",
        ),
        (
            {"actions": {"prompts": 3}},
            "actions.prompts[0]=x",
            "actions.prompts is 3, not a list; give the whole list: --set 'actions.prompts=[...]'",
        ),
        ({"data": {"split": {}}}, "data.split[0]=x", "data.split is an empty object, not a list"),
    ],
)
def test_where_a_list_may_stand_an_index_is_answered_with_it(
    document: dict[str, Any], option: str, problem: str
) -> None:
    """`finetune` is one phase or several; elsewhere a list would be no better."""
    (found,) = merge(document, [option], JobSpec)[2]
    assert found.message == f"cannot be set: {problem}"
