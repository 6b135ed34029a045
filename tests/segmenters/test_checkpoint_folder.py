"""Checkpoint folders: read like `from_pretrained`, without its trust."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from job.errors import IntegrityError
from job.segmenters.checkpoint_files import CODE
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT, content_key
from job.segmenters.promptable_unet.checkpoint_folder import load
from job.segmenters.promptable_unet.pretrained import PretrainedPromptableUNet
from tests.hostile import valid

PROMPTS = ["Segment the vessels!", "", "[PAD] veins, 动脉 and " + "arteries " * 80]


def test_it_reads_what_the_library_reads() -> None:
    """Equal weights, equal buffers, equal tokens; ready for evaluation, in float32."""
    network, tokenizer = load(EMBEDDED_CHECKPOINT)
    theirs = PretrainedPromptableUNet.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
    assert not network.training
    ours, wanted = network.state_dict(), theirs.state_dict()
    assert ours.keys() == wanted.keys()
    assert all(ours[name].dtype == wanted[name].dtype for name in wanted)
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    assert list(network.config.widths) == theirs.config.widths
    words = PreTrainedTokenizerFast.from_pretrained(EMBEDDED_CHECKPOINT)
    options = {"padding": True, "truncation": True, "max_length": 64}
    assert [one.ids for one in tokenizer.encode_batch(PROMPTS)] == words(PROMPTS, **options)["input_ids"]


def test_loading_leaves_the_random_state_alone() -> None:
    """No weight is drawn before it is read."""
    before = torch.get_rng_state()
    load(EMBEDDED_CHECKPOINT)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_tensor_is_not_made_up(tmp_path: Path) -> None:
    """`from_pretrained` would fill it with chance, and warn."""
    folder = valid.checkpoint(tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"tensors missing: \['head.weight'\]"):
        load(folder)


@pytest.mark.parametrize("ending", sorted(CODE))
def test_code_is_refused_before_anything_is_read(tmp_path: Path, ending: str) -> None:
    """Whatever else is in the folder, and also when only its key is wanted."""
    folder = valid.checkpoint(tmp_path / "checkpoint")
    (folder / "sub").mkdir()
    (folder / "sub" / f"x{ending.upper()}").write_bytes(b"")
    for read in (load, content_key):
        with pytest.raises(IntegrityError, match="which could run code when it is loaded") as caught:
            read(folder)
        assert f"sub/x{ending.upper()}" in str(caught.value)
        assert "no setting changes that" in caught.value.advice


def test_weights_in_a_pickle_are_refused_and_not_called_missing(tmp_path: Path) -> None:
    """Whoever downloaded the older format is told what to do with it."""
    folder = valid.checkpoint(tmp_path / "checkpoint")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(IntegrityError, match=r"pytorch_model\.bin") as caught:
        content_key(folder)
    assert "safetensors.torch.save_file" in caught.value.advice


def test_what_the_configuration_says_besides_is_ignored(tmp_path: Path) -> None:
    """Adapters, other files and other classes are not followed."""
    folder = valid.checkpoint(tmp_path / "checkpoint")
    for name, more in {
        "config.json": {
            "transformers_weights": "other.safetensors",
            "quantization_config": {"quant_method": "x"},
        },
        "tokenizer_config.json": {"tokenizer_class": "Other", "tokenizer_file": "/etc/passwd"},
    }.items():
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}')
    network, _ = load(folder)
    assert torch.equal(network.head.weight, load(EMBEDDED_CHECKPOINT)[0].head.weight)
