import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from job.spec.job import JobSpec
from job.spec.schema import job_schema, schema_text

SPECS = Path(__file__).parents[2] / "specs"
STARTERS = sorted(path for path in SPECS.glob("*.json") if path.name != "job.schema.json")


def test_the_file_is_what_the_models_say() -> None:
    """`make schema` writes the committed file; a change of the models without it fails here."""
    assert (SPECS / "job.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_module_writes_and_prints_the_schema(tmp_path: Path) -> None:
    """Without an argument it writes the file of the repository, with one another file; `-` prints."""
    command = [sys.executable, "-m", "job.spec.schema"]
    environment = os.environ | {"PYTHONPATH": str(SPECS.parent)}
    (tmp_path / "specs").mkdir()

    def call(*arguments: str) -> bytes:
        return subprocess.run(
            [*command, *arguments], capture_output=True, check=True, cwd=tmp_path, env=environment
        ).stdout

    assert call("-").decode() == schema_text()
    assert call() == b""
    assert (tmp_path / "specs" / "job.schema.json").read_text(encoding="utf-8") == schema_text()
    call("other.json")
    assert (tmp_path / "other.json").read_text(encoding="utf-8") == schema_text()


def test_it_is_a_schema_of_its_dialect() -> None:
    """The schema validates against the draft it names."""
    assert job_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(job_schema())


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.name)
def test_starter_specs_are_valid_by_schema_and_by_models(path: Path) -> None:
    """An editor and the program agree on every spec that ships."""
    document = json.loads(path.read_text())
    jsonschema.Draft202012Validator(job_schema()).validate(document)
    JobSpec.model_validate_json(path.read_text())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": "A"},
        {"name": "x", "sed": 1},
        {"name": "x", "seed": -1},
        {"name": "x", "seed": "1"},
        {"name": "x", "version": 2},
        {"name": "x", "data": {"split": {}}},
        {"name": "x", "data": {"split": {"kind": "column", "test": 0.1}}},
        {"name": "x", "data": {"split": {"kind": "patients", "train": ["a"]}}},
        {"name": "x", "reward": {"terms": {"dise": 1}}},
        {"name": "x", "reward": {"terms": {}}},
        {"name": "x", "data": {"synthetic": {"size": 100}}},
        {"name": "x", "finetune": {"clip_range": 0}},
    ],
    ids=json.dumps,
)
def test_an_editor_marks_what_the_program_would_refuse(wrong: dict[str, Any]) -> None:
    """Mistakes in one value are wrong by the schema as by the models."""
    assert not jsonschema.Draft202012Validator(job_schema()).is_valid(wrong)
    with pytest.raises(ValidationError):
        JobSpec.model_validate_json(json.dumps(wrong))


def test_every_field_has_a_description() -> None:
    """Who hovers over a key in an editor reads what it does; a tag is described by its section."""
    definitions = job_schema()["$defs"]
    sections = {"": job_schema(), **definitions}
    undescribed = {
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in section.get("properties", {}).items()
        if "description" not in field and "description" not in referred(field, definitions) and key != "kind"
    }
    assert undescribed == set()


def referred(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the definition that a field refers to, whose description pydantic does not repeat."""
    found: dict[str, Any] = definitions.get(field.get("$ref", "").removeprefix("#/$defs/"), {})
    return found
