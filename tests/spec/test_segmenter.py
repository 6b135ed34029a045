"""`segmenter`: kinds, their defaults, and what has to fit together."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.segmenters.registry import sa2va_options
from job.segmenters.sa2va.options import Sa2vaOptions
from job.spec.job import JobSpec
from job.spec.loading import load
from job.spec.problems import SpecProblems
from job.spec.segmenter import PromptableUNetSpec, Sa2vaSpec
from job.stages.stage import action_space

SPECS = Path(__file__).parents[2] / "specs"


def spec_of(**segmenter: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "x", "segmenter": segmenter})


def problems_of(tmp_path: Path, document: dict[str, Any]) -> str:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SpecProblems) as caught:
        load(str(path))
    return str(caught.value)


def test_only_sa2va_enlarges_its_masks_by_way_of_another_size() -> None:
    """As its own code does; the actions of a job know it from the spec, before a model is loaded."""
    sa2va = spec_of(kind="sa2va", uri="there")
    assert action_space(sa2va).by_way_of == (1024, 1024)
    assert action_space(spec_of(uri="there")).by_way_of is None
    assert action_space(spec_of(kind="clipseg", uri="there")).by_way_of is None


def test_without_a_kind_it_is_the_network_that_ships_with_the_program() -> None:
    """As it was before there were kinds; specs of then mean the same run."""
    assert spec_of(uri="there") == spec_of(kind="promptable_unet", uri="there")
    assert JobSpec.model_validate({"name": "x"}).segmenter == PromptableUNetSpec()
    assert set(spec_of(uri="there").identity()["segmenter"]) == {"kind", "uri", "batch_size"}


@pytest.mark.parametrize(
    ("segmenter", "said"),
    [
        ({"kind": "sam"}, '"sa2va"'),
        ({"kind": "sa2va"}, "segmenter.uri: required key is missing"),
        ({"kind": "sa2va", "uri": "x", "trust_code": "sha256:12"}, "trust_code"),
        ({"kind": "sa2va", "uri": "x", "reply": "Sure."}, "reply"),
        (
            {"kind": "clipseg", "uri": "x", "path": "shared"},
            'segmenter.path: belongs to "sa2va", and this is "clipseg"; known here: kind, uri, dtype,',
        ),
        ({"kind": "plugin", "uri": "x"}, "segmenter.name: required key is missing"),
        ({"uri": "x", "trust_remote_code": True}, "segmenter.trust_remote_code"),
    ],
)
def test_mistakes_are_told_by_kind(tmp_path: Path, segmenter: dict[str, Any], said: str) -> None:
    """With the keys that the kind has."""
    assert said in problems_of(tmp_path, {"name": "x", "segmenter": segmenter})


def test_what_was_computed_elsewhere_cannot_be_called_live(tmp_path: Path) -> None:
    """The one thing that precomputed masks cannot do."""
    document = {
        "name": "x",
        "segmenter": {"kind": "precomputed", "uri": "there"},
        "finetune": {"rollout": "live"},
    }
    assert "finetune.rollout: calls the segmenter" in problems_of(tmp_path, document)


def test_the_spec_alone_has_the_defaults_of_sa2va() -> None:
    """The adapter's options have none of their own, and all of them can be chosen."""
    assert all(not hasattr(Sa2vaOptions, name) for name in Sa2vaOptions.__dataclass_fields__)
    spec = Sa2vaSpec(kind="sa2va", uri="x")
    beside = {"kind", "uri", "batch_size", "verify_pairs"}
    assert set(Sa2vaSpec.model_fields) - beside == set(Sa2vaOptions.__dataclass_fields__)
    assert sa2va_options(spec).identity()["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("name", "value", "is_in_key"),
    [
        ("path", "generate", True),
        ("dtype", "float32", True),
        ("attention", "eager", True),
        ("several_seg", "union", True),
        ("max_new_tokens", 32, True),
        ("images_per_batch", 3, False),
        ("prompts_per_batch", 3, False),
        ("trust_code", "sha256:" + "0" * 64, False),
    ],
)
def test_what_changes_results_is_in_the_key_and_nothing_else(
    name: str, value: object, is_in_key: bool
) -> None:
    """Code counts by its digest; what only says how much at once does not count."""
    plain, other = (
        sa2va_options(Sa2vaSpec.model_validate({"kind": "sa2va", "uri": "x", **changes})).identity()
        for changes in ({}, {name: value})
    )
    assert (plain != other) is is_in_key


def test_an_own_checkpoint_and_bucket_take_twelve_lines() -> None:
    """A promise, and the spec is valid."""
    path = SPECS / "my-bucket.json"
    assert len(path.read_text().splitlines()) <= 12
    segmenter = load(str(path)).spec.segmenter
    assert isinstance(segmenter, Sa2vaSpec)
    assert segmenter.trust_code is not None
    assert segmenter.uri.startswith("s3://")


def test_no_kind_brings_heavy_libraries_to_a_spec() -> None:
    """`validate` answers at once, whatever the kind."""
    kinds = [
        {"kind": "sa2va", "uri": "x"}, {"kind": "clipseg", "uri": "x"}, {"kind": "sam3", "uri": "x"},
        {"kind": "precomputed", "uri": "x"}, {"kind": "plugin", "name": "x", "uri": "x"},
    ]  # fmt: skip
    code = (
        "import sys; from job.spec.job import JobSpec\n"
        f"for kind in {kinds!r}: JobSpec.model_validate({{'name': 'x', 'segmenter': kind}})\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'job.segmenters') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
