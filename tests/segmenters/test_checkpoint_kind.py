"""A checkpoint of another kind than the spec's is refused by its config.json, here and in a store."""

import json
from pathlib import Path

import pytest

from job import trust
from job.errors import InputError
from job.inputs import find_segmenter
from job.spec.segmenter import ClipsegSpec, PrecomputedSpec, PromptableUNetSpec, Sa2vaSpec, Sam3Spec
from job.storage.fetch import listing
from job.storage.uris import open_store


def model_of(folder: Path, config: object) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "kind"), [("clipseg", "clipseg"), ("sam3_video", "sam3"), ("promptable_unet",) * 2]
)
def test_the_kind_to_write_is_named(tmp_path: Path, model_type: str, kind: str) -> None:
    """Whatever the spec's kind is, but for the right one."""
    uri = model_of(tmp_path / "model", {"model_type": model_type})
    for spec in (
        PromptableUNetSpec(uri=uri),
        ClipsegSpec(kind="clipseg", uri=uri),
        Sam3Spec(kind="sam3", uri=uri),
        Sa2vaSpec(kind="sa2va", uri=uri),
    ):
        if spec.kind == kind:
            trust.require_vouched(spec, Path(uri))
        else:
            with pytest.raises(
                InputError, match=f"of kind {kind}, and segmenter.kind is {spec.kind}"
            ) as told:
                trust.require_vouched(spec, Path(uri))
            assert told.value.advice.startswith(f'set segmenter.kind to "{kind}"')


def test_nothing_but_config_json_is_read_from_a_store(s3_prefix: str) -> None:
    """Weights of gigabytes need not be fetched for it."""
    open_store(f"{s3_prefix}/model").write("config.json", b'{"model_type": "sam3"}')
    found = listing(f"{s3_prefix}/model")
    with pytest.raises(InputError, match="of kind sam3"):
        trust.require_vouched(ClipsegSpec(kind="clipseg", uri=found.uri), found)


@pytest.mark.parametrize("config", [{"model_type": "clip"}, {"model_type": 5}, [], {}])
def test_what_is_of_no_known_kind_is_for_the_family_to_judge(tmp_path: Path, config: object) -> None:
    """It knows what exactly is wrong; and fine-tuned checkpoints may call themselves as they like."""
    uri = model_of(tmp_path / "model", config)
    trust.require_vouched(ClipsegSpec(kind="clipseg", uri=uri), Path(uri))
    (tmp_path / "model" / "config.json").write_text("{")
    trust.require_vouched(ClipsegSpec(kind="clipseg", uri=uri), Path(uri))


def test_other_segmenters_have_no_config(tmp_path: Path) -> None:
    """A folder of probabilities may lie beside a checkpoint; the one that ships is of its kind."""
    uri = model_of(tmp_path / "model", {"model_type": "clipseg"})
    trust.require_vouched(PrecomputedSpec(kind="precomputed", uri=uri), Path(uri))
    own = PromptableUNetSpec()
    trust.require_vouched(own, find_segmenter(own.uri))


def test_sa2va_without_code_is_no_sa2va(tmp_path: Path) -> None:
    """There is nothing to vouch for."""
    uri = model_of(tmp_path / "model", {"model_type": "own"})
    with pytest.raises(InputError, match="holds no Python files"):
        trust.require_vouched(Sa2vaSpec(kind="sa2va", uri=uri), Path(uri))
