"""docs/segmenters.md: every example of a spec is a valid one, and every kind has its section."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from job.segmenters.plugin import GROUP
from job.spec.job import JobSpec
from job.spec.segmenter import AnySegmenterSpec, PromptableUNetSpec

PAGE = (Path(__file__).parents[2] / "docs" / "segmenters.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
KINDS = {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(AnySegmenterSpec)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
def test_examples_are_valid_specs(example: dict[str, object]) -> None:
    """As they stand."""
    JobSpec.model_validate(example)


def test_every_kind_is_shown() -> None:
    """In the table, and by an example; the one that needs no section of a spec has none."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(KINDS)
    shown = {JobSpec.model_validate(example).segmenter.kind for example in EXAMPLES}
    assert shown == set(KINDS) - {PromptableUNetSpec().kind}


def test_the_entry_point_group_is_the_one_that_is_looked_at() -> None:
    """A plug-in's author copies it from there."""
    assert f'[project.entry-points."{GROUP}"]' in PAGE
