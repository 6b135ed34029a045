from typing import Any

import pytest
from pydantic import ValidationError

from job.spec.explain import explain
from job.spec.fields import known_paths
from job.spec.job import JobSpec
from job.spec.showing import show_path


def explained(document: dict[str, Any]) -> list[str]:
    """Explain what is wrong with a document, `path: message` each."""
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"name": "x"} | document)
    complaints = explain(caught.value.errors(), JobSpec)
    return [f"{show_path(complaint.path)}: {complaint.message}" for complaint in complaints]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"seed": "128"}, 'seed: expected an integer, got "128"; write 128'),
        ({"seed": "1e3"}, 'seed: expected an integer, got "1e3"; write 1000'),
        ({"seed": 2.0}, "seed: expected an integer, got 2.0; write 2"),
        ({"seed": 2.5}, "seed: expected an integer, got 2.5"),
        ({"seed": True}, "seed: expected an integer, got true"),
        ({"seed": None}, "seed: expected an integer, got null"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"seed": 2**31}, "seed: expected less than 2147483648, got 2147483648"),
        ({"finetune": {"gamma": "0.9"}}, 'finetune.gamma: expected a number, got "0.9"; write 0.9'),
        ({"finetune": {"gamma": "high"}}, 'finetune.gamma: expected a number, got "high"'),
        ({"finetune": {"gamma": "nan"}}, 'finetune.gamma: expected a number, got "nan"'),
        ({"finetune": {"gamma": 1.5}}, "finetune.gamma: expected at most 1, got 1.5"),
        ({"finetune": {"clip_range": 0}}, "finetune.clip_range: expected more than 0, got 0"),
        ({"finetune": {"net_arch": {"pi": [0]}}}, "finetune.net_arch.pi[0]: expected at least 1, got 0"),
        ({"finetune": {"net_arch": {"pi": 64}}}, "finetune.net_arch.pi: expected a list, got 64; write [64]"),
        ({"finetune": {"n_stps": 1}}, "finetune.n_stps: unknown key; did you mean n_steps?"),
        ({"finetune": {"timesteps": 1}}, "finetune.timesteps: unknown key; did you mean total_timesteps?"),
        ({"finetune": "ppo"}, 'finetune: expected an object, got "ppo"'),
        ({"total_timesteps": 1}, "total_timesteps: unknown key; did you mean finetune.total_timesteps?"),
        ({"cache": {"x": 1}}, "cache.x: unknown key; known here: uri, max_gb"),
        ({"data": {"uri": 5}}, 'data.uri: expected a string, got 5; write "5"'),
        ({"data": {"uri": ""}}, "data.uri: is empty"),
        (
            {"data": {"synthetic": {"size": 100}}},
            "data.synthetic.size: expected a multiple of 16, got 100; write 96 or 112",
        ),
        (
            {"data": {"synthetic": {"annotation": "by_clarty"}}},
            'data.synthetic.annotation: expected "by_clarity" or "all", got "by_clarty"; '
            'did you mean "by_clarity"?',
        ),
        (
            {"finetune": {"algorithm": "grpo", "terms": {"x": 1}}},
            "finetune.terms.x: unknown key; known here: dice, iou, recall, precision, cldice, betti,"
            " foreground",
        ),
        (
            {
                "finetune": [
                    {"algorithm": "sft"},
                    {"algorithm": "grpo", "terms": {"dice": 1, "reward_net": 1}},
                ]
            },
            "finetune[1].terms.reward_net: judges unlabelled images alone: remove it",
        ),
        (
            {"finetune": {"algorithm": "grpo", "terms": {"dice": 0}}},
            "finetune.terms: every weight is 0: the reward would be constant",
        ),
        (
            {"finetune": {"algorithm": "grpo", "samples": 7, "antithetic": True}},
            "finetune.samples: with antithetic masks come in pairs, got 7; write 8",
        ),
        (
            {"finetune": {"algorithm": "grpo", "temperature": 0.04}},
            "finetune.temperature: expected at least 0.05, got 0.04",
        ),
        (
            {"finetune": {"algorithm": "grpo", "window": 65, "crop": 64}},
            'finetune.window: 65 exceeds crop = 64; write at most that, or credit "mask", which judges a crop'
            " as a whole",
        ),
        (
            {"finetune": [{"algorithm": "ppo"}, {"algorithm": "sft", "samples": 3}]},
            'finetune[1].samples: belongs to "grpo", and this is "sft"; known here: prompt, steps,'
            " batch_size, crop, learning_rate, weight_decay, max_grad_norm, validate_every, patience,"
            " algorithm, cldice_weight",
        ),
        (
            {"finetune": [{"algorithm": "sft", "sampels": 3}]},
            'finetune[0].sampels: unknown key; did you mean samples? It belongs to "grpo", and this is "sft"',
        ),
        (
            {"data": {"split": {"kind": "folds", "test": 0.3}}},
            'data.split.test: belongs to "auto", "hash" or "patients", and this is "folds"; known here:'
            " kind, k",
        ),
        ({"version": 2}, "version: expected 1, got 2"),
        (
            {"data": {"split": {"kind": "pateints"}}},
            'data.split.kind: expected "auto", "column", "hash", "patients" or "folds", got "pateints"; '
            'did you mean "patients"?',
        ),
        (
            {"data": {"split": {}}},
            'data.split.kind: required key is missing: "auto", "column", "hash", "patients" or "folds"',
        ),
        ({"data": {"split": {"knid": "hash"}}}, "data.split.knid: unknown key; did you mean kind?"),
        (
            {"data": {"uri": "a\0b"}},
            "data.uri: holds a control character, which no place can have in its name",
        ),
        ({"data": {"split": 5}}, "data.split: expected an object, got 5"),
        ({"reward": {"terms": {"dise": 1}}}, "reward.terms.dise: unknown key; did you mean dice?"),
        ({"reward": {"terms": {}}}, "reward.terms: expected at least 1 entry, got 0"),
        ({"reward": {"terms": []}}, "reward.terms: expected an object, got an empty list"),
        ({"reward": {"terms": {"dice": 0}}}, "reward.terms: every weight is 0: the reward would be constant"),
        ({"actions": {"prompts": []}}, "actions.prompts: expected at least 1 entry, got 0"),
        ({"actions": {"prompts": ["a"] * 257}}, "actions.prompts: expected at most 256 entries, got 257"),
        (
            {"actions": {"prompts": ["a" * 1001]}},
            "actions.prompts[0]: expected at most 1000 characters, got 1001",
        ),
        ({"actions": {"prompts": ["a", "b", "a"]}}, "actions.prompts[2]: repeats prompts[0]; remove one"),
        (
            {"evaluate": {"datasets": [{"name": "hrf", "uri": "a"}, {"name": "HRF", "uri": "b"}]}},
            "evaluate.datasets[1].name: repeats the name of datasets[0]; the report tells them apart by it",
        ),
        (
            {"actions": {"postprocess": [{"low": 0.9}]}},
            "actions.postprocess[0].low: low (0.9) must be below threshold (0.5)",
        ),
        (
            {"name": "My Run"},
            'name: "My Run" does not match ^[a-z0-9][a-z0-9._-]{0,62}$: names the run folder: '
            "lower-case letters, digits, dots, dashes, underscores; write my-run",
        ),
    ],
)
def test_every_kind_of_mistake_is_put_plainly(document: dict[str, Any], message: str) -> None:
    """What was expected, what is there, and what to write instead where that can be told."""
    assert explained(document) == [message]


def test_a_misspelt_required_key_is_one_mistake() -> None:
    """The unknown key and the missing one are the same slip."""
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"nmae": "x"})
    (complaint,) = explain(caught.value.errors(), JobSpec)
    assert (complaint.path, complaint.message) == (("nmae",), "unknown key; did you mean name?")
    assert complaint.points_at == "key"


def test_values_under_keys_that_name_secrets_are_neither_shown_nor_repeated_as_advice() -> None:
    """A message may be logged; a password in the wrong place must not be."""
    messages = explained(
        {"data": {"uri": "https://u:hunter2@h/?sig=hunter2", "width": "https://u:hunter2@h/"}}
    )
    assert messages == ['data.width: expected an integer, got "https://***@h/"']
    assert "hunter2" not in explained({"name": "https://u:hunter2@h/"})[0]
    assert explained({"password": "hunter2"})[0].startswith("password: unknown key; known here: $schema")


def test_no_error_type_of_the_models_falls_through_to_pydantics_words() -> None:
    """Every type of error that some wrong value at some place of a spec raises is explained here."""
    wrong: list[Any] = [
        None,
        True,
        -1,
        0.5,
        10**400,
        "",
        "x" * 2000,
        [],
        [None],
        {},
        {"kind": 1},
        {"x": 1},
        float("nan"),
    ]
    seen: set[str] = set()
    for path in known_paths(JobSpec):
        for value in wrong:
            document: dict[str, Any] = {"name": "x"}
            inner = document
            for step in path[:-1]:
                inner = inner.setdefault(str(step), {"kind": "patients"} if step == "split" else {})
            inner[str(path[-1])] = value
            try:
                JobSpec.model_validate(document)
            except ValidationError as caught:
                errors = caught.errors()
                seen |= {error["type"] for error in errors}
                for complaint in explain(errors, JobSpec):
                    assert "valid " not in complaint.message, complaint
    assert seen > {
        "int_type",
        "float_type",
        "string_type",
        "list_type",
        "dict_type",
        "model_type",
        "extra_forbidden",
    }
