"""The specs that ship: each loads, and a mistake put anywhere into one is found where it stands."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.spec.fields import known_paths
from job.spec.job import JobSpec
from job.spec.loading import load
from job.spec.positions import parse
from job.spec.problems import Problem, SpecProblems

SPECS = Path(__file__).parents[2] / "specs"
STARTERS = sorted(path.name for path in SPECS.glob("*.json") if path.name != "job.schema.json")


@pytest.mark.parametrize("name", STARTERS)
def test_starter_specs_load_and_fit_on_a_screen(name: str) -> None:
    """Each is valid, named for its file, names the schema, and has at most 40 lines."""
    loaded = load(str(SPECS / name))
    assert loaded.spec.name == name.removesuffix(".json")
    assert loaded.spec.schema_ == "job.schema.json"
    assert len((SPECS / name).read_text().splitlines()) <= 40


def test_control_is_quick_with_an_annotation_that_no_image_changes() -> None:
    """The control experiment differs from quick in nothing else, so that the comparison says something."""
    quick, control = (load(str(SPECS / f"{name}.json")).spec.identity() for name in ("quick", "control"))
    assert control["data"]["synthetic"]["annotation"] == "all"
    control["data"]["synthetic"]["annotation"] = "by_clarity"
    assert control | {"name": "quick"} == quick


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("reward_network_alone", {"reward_net"}),
        ("reward_with_dice", {"reward_net", "dice"}),
        ("reward_with_recall", {"reward_net", "recall"}),
        ("reward_with_topology", {"reward_net", "cldice", "betti"}),
    ],
)
def test_reward_examples_are_quick_with_another_reward(name: str, terms: set[str]) -> None:
    """They differ in nothing else, so that their results compare and share the network's training."""
    quick, example = (load(str(SPECS / f"{name}.json")).spec.identity() for name in ("quick", name))
    assert set(example["reward"]["terms"]) == terms
    for field in ("terms", "normalise"):
        example["reward"][field] = quick["reward"][field]
    assert example | {"name": "quick"} == quick


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    """Follow a path through a document."""
    for step in path:
        value = value[step]
    return value


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """List the paths of all scalars in a document."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    return [path] if items is None else [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]


FREE_TEXT = ("$schema", "prompts", "train", "validation", "test")


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(STARTERS),
    st.sampled_from(["{}", '{"a": [1]}', "[[]]", "1e400", "NaN", "-1.5", '"\\u0000"']),
)
def test_a_wrong_value_anywhere_is_reported_where_it_stands(
    data: st.DataObject, name: str, wrong: str
) -> None:
    """A value put in place of any of a starter's is one problem at that line and column, or fits there."""
    text = (SPECS / name).read_text()
    document = json.loads(text)
    path = data.draw(st.sampled_from(leaves(document)))
    node = parse(text).root.find(path)
    assert node is not None
    lines = text.split("\n")
    line, start = lines[node.value.line - 1], node.value.column - 1
    _, length = json.JSONDecoder().raw_decode(line[start:])
    lines[node.value.line - 1] = line[:start] + wrong + line[start + length :]
    is_text = isinstance(at(document, path), str) and any(step in FREE_TEXT for step in path)
    fits = (wrong == '"\\u0000"' and is_text) or (wrong == "-1.5" and "terms" in path)
    found = [(problem.line, problem.column) for problem in problems_in("\n".join(lines))]
    assert found == ([] if fits else [(node.value.line, node.value.column)])


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(STARTERS))
def test_a_misspelt_key_anywhere_is_reported_where_it_stands(data: st.DataObject, name: str) -> None:
    """A key with a letter doubled is unknown, at its own place, and the right key is proposed."""
    text = (SPECS / name).read_text()
    path = data.draw(
        st.sampled_from([path for path in leaves(json.loads(text)) if isinstance(path[-1], str)])
    )
    node = parse(text).root.find(path)
    assert node is not None
    assert node.key is not None
    key = str(path[-1])
    cut = data.draw(st.integers(1, len(key)))
    lines = text.split("\n")
    line, start = lines[node.key.line - 1], node.key.column
    lines[node.key.line - 1] = line[: start + cut] + line[start + cut - 1] + line[start + cut :]
    found = [
        p for p in problems_in("\n".join(lines)) if (p.line, p.column) == (node.key.line, node.key.column)
    ]
    assert [p.message for p in found] == [f"unknown key; did you mean {key}?"]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(STARTERS))
def test_no_damage_to_a_spec_raises_anything_else(data: st.DataObject, name: str) -> None:
    """Bytes cut out and put in give a valid spec or problems, each with a place inside the text."""
    text = (SPECS / name).read_text()
    start = data.draw(st.integers(0, len(text)))
    put_in = data.draw(st.text(max_size=8) | st.sampled_from(["{", "[", '"', ",", ":", "null", "1e999", "}"]))
    text = text[:start] + put_in + text[start + data.draw(st.integers(0, 40)) :]
    lines = text.split("\n")
    for problem in problems_in(text):
        if problem.line is not None and problem.column is not None:
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert str(problem).isprintable()


NAMES = sorted({str(path[-1]) for path in known_paths(JobSpec)} | {"", "[key]", "hash", "a\nb", "tokén"})
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from([*NAMES, "column"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), DOCUMENTS, max_size=6))
def test_no_document_raises_anything_else(document: dict[str, Any]) -> None:
    """Known and odd keys in any arrangement give a valid spec or problems, a printable line each."""
    assert all(str(problem).isprintable() for problem in problems_in(json.dumps(document)))


def problems_in(text: str) -> tuple[Problem, ...]:
    """Load a text through standard input and return its problems, none where it is valid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        try:
            load("-")
        except SpecProblems as error:
            return error.problems
    return ()
