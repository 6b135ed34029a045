"""The JSON Schema of a spec, for editors.

`python -m job.spec.schema [FILE]` writes it to specs/job.schema.json, or to FILE; `-` prints it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from job.spec.job import JobSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Untitled(GenerateJsonSchema):
    """pydantic titles every field with its own name in capitals, which editors then repeat in every hover."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec; descriptions are the fields' docstrings.

    A schema cannot state the rules between fields, such as `low` below `threshold`: `validate` does.
    """
    schema = JobSpec.model_json_schema(schema_generator=_Untitled)
    return {"$schema": DIALECT} | schema | {"title": "Spec of a segmentation reinforcement learning job"}


def schema_text() -> str:
    """Return the text of `specs/job.schema.json`."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = sys.argv[1] if sys.argv[1:] else "specs/job.schema.json"
    if target == "-":
        sys.stdout.write(schema_text())
    else:
        Path(target).write_text(schema_text(), encoding="utf-8")
