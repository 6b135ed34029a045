"""CLIPSeg and SAM 3: what is read once gives what the whole network gives; odd checkpoints are refused."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, CLIPSegForImageSegmentation, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling

from job.data.image_names import NAMELESS
from job.errors import InputError, IntegrityError, SpecError
from job.segmenters.text_prompted.checkpoint_folder import content_files, preparation
from job.segmenters.text_prompted.door import TextPromptedFamily
from tests.segmenters.fakes import photographs
from tests.segmenters.text_prompted import tiny

Kind = Literal["clipseg", "sam3"]
PROMPTS = ("Segment the vessels", "fine", "please the major retinal blood vessels")


@pytest.fixture(scope="module", params=["clipseg", "sam3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Path]:
    """A checkpoint of each kind."""
    kind: Kind = request.param
    return kind, tiny.make(tmp_path_factory.mktemp(kind) / "model", kind)


def load(kind: Kind, folder: Path, dtype: Literal["bfloat16", "float16", "float32"] = "float32") -> Any:
    return TextPromptedFamily(kind, dtype).load(folder, "cpu", None, NAMELESS)


def plain(kind: Kind, folder: Path, image: NDArray[np.uint8], prompt: str) -> NDArray[np.float32]:
    """Call the network as its documentation does, a pair at a time, prepared by other code."""
    side = tiny.SIDE[kind]
    pixels = torch.from_numpy(
        np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    )
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixel_values = ((pixels.float() / 255 - mean) / deviation).permute(2, 0, 1)[None]
    text = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    model = (CLIPSegForImageSegmentation if kind == "clipseg" else Sam3Model).from_pretrained(folder).eval()
    with torch.inference_mode():
        found = model(
            pixel_values=pixel_values, input_ids=text["input_ids"], attention_mask=text["attention_mask"]
        )
    logits = found.logits if kind == "clipseg" else found.semantic_seg
    return logits.reshape(logits.shape[-2:]).numpy()


def test_features_read_once_give_what_the_whole_network_gives(made: tuple[Kind, Path]) -> None:
    """In float32 the logits of every pair are close, and the masks equal but for pixels on the edge."""
    kind, folder = made
    images = [*photographs(2, size=(40, 60)), *photographs(1, seed=1, size=(90, 33))]
    answers = load(kind, folder).segment(images, PROMPTS)
    for image, answer in zip(images, answers, strict=True):
        for prompt, logits in zip(PROMPTS, answer.logits_PHW, strict=True):
            wanted = plain(kind, folder, image, prompt)
            np.testing.assert_allclose(logits.astype(np.float32), wanted, rtol=2e-3, atol=2e-3)
            np.testing.assert_array_equal(logits > 0, wanted.astype(np.float16) > 0)
    # They tell images and prompts apart, or the comparison would show nothing.
    spread = np.stack([answer.logits_PHW for answer in answers]).astype(np.float32)
    assert spread.std(axis=0).mean() > 1e-3
    assert spread.std(axis=1).mean() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sam3_is_not_asked_for_single_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Literal["float32", "bfloat16"]
) -> None:
    """Its semantic logits are, bit for bit, those of the whole network, which looks for objects as well."""
    network = load("sam3", tiny.make(tmp_path / "model", "sam3"), dtype)._network
    pixels = torch.from_numpy(np.stack([network.preparation(image) for image in photographs(2)]))
    looked = []
    network._model.detr_decoder.register_forward_hook(lambda *_: looked.append(1))
    with torch.inference_mode():
        features = network.read_images(pixels.to(network.dtype))
        prompts = [network.read_prompt(prompt) for prompt in PROMPTS]
        for b in range(2):
            read, masks = (torch.stack(parts) for parts in zip(*prompts, strict=True))
            seen = type(features.rows)(
                **{
                    name: tuple(
                        one[min(b, len(one) - 1)][None].expand(len(PROMPTS), -1, -1, -1)
                        for one in features.rows[name]
                    )
                    for name in ("fpn_hidden_states", "fpn_position_encoding")
                }
            )
            text = BaseModelOutputWithPooling(pooler_output=read)
            whole = network._model(vision_embeds=seen, text_embeds=text, attention_mask=masks)
            assert looked == [1] * (b + 1)
            logits_PHW = network.decode(features, b, prompts)
            assert looked == [1] * (b + 1)
            assert whole.pred_masks.shape[1] > 1
            torch.testing.assert_close(logits_PHW, whole.semantic_seg[:, 0], rtol=0, atol=0)
            assert logits_PHW.float().std() > 0


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.9), ("float16", 0.995)])
def test_half_precision_gives_about_the_same(
    made: tuple[Kind, Path], dtype: Literal["bfloat16", "float16"], least: float
) -> None:
    """Random weights of a few layers enlarge rounding; three and two digits are left."""
    images = photographs(2, size=(40, 60))
    for one, other in zip(
        load(*made).segment(images, PROMPTS), load(*made, dtype).segment(images, PROMPTS), strict=True
    ):
        surfaces = [answer.logits_PHW.astype(np.float32).ravel() for answer in (one, other)]
        assert np.corrcoef(surfaces)[0, 1] > least


def test_each_image_and_each_prompt_is_read_once(
    made: tuple[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt for all calls, an image for all its prompts."""
    segmenter = load(*made)
    network = segmenter._network
    calls: list[tuple[str, int]] = []
    for name, size in (("read_prompt", lambda prompt: 1), ("read_images", len)):
        real = getattr(network, name)

        def counted(what: Any, real: Any = real, name: str = name, size: Any = size) -> Any:
            calls.append((name, size(what)))
            return real(what)

        monkeypatch.setattr(network, name, counted)
    images = photographs(3)
    segmenter.segment(images, PROMPTS[:2])
    segmenter.segment(images[:1], PROMPTS)
    assert calls == [("read_prompt", 1)] * 2 + [("read_images", 3), ("read_prompt", 1), ("read_images", 1)]


def test_a_prompt_that_it_cannot_read_whole_is_refused(made: tuple[Kind, Path]) -> None:
    """Cut short, two prompts could become one."""
    with pytest.raises(SpecError, match="has 42 tokens, and this network reads"):
        load(*made).segment(photographs(1), ["vessels " * 40])


def test_weights_that_lack_something_are_refused(made: tuple[Kind, Path], tmp_path: Path) -> None:
    """transformers would fill them with chance."""
    kind, _ = made
    folder = tiny.make(tmp_path / "model", kind)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "decoder" in name and name.endswith("weight"))
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match="lack 1 tensors"):
        load(kind, folder)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(IntegrityError):
        load(kind, folder)


def test_a_configuration_that_asks_for_more_than_there_is_takes_no_memory(
    made: tuple[Kind, Path], tmp_path: Path
) -> None:
    """Terabytes are not made up on the word of a number in config.json."""
    kind, _ = made
    folder = tiny.make(tmp_path / "model", kind)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 1 << 36
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=r"asks for .* numbers, and the weights hold"):
        load(kind, folder)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer.json"]
)
def test_what_a_folder_lacks_is_named(made: tuple[Kind, Path], tmp_path: Path, name: str) -> None:
    """Before anything is loaded."""
    kind, _ = made
    folder = tiny.make(tmp_path / "model", kind)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="safetensors" if "safetensors" in name else name):
        TextPromptedFamily(kind, "float32").content_key(folder, None)


def test_shards_that_are_missing_or_cut_are_named(made: tuple[Kind, Path], tmp_path: Path) -> None:
    """A missing one before anything is loaded; not as weights of another model."""
    kind, whole = made
    folder = tiny.make(tmp_path / "model", kind)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + i % 3}.safetensors" for i, name in enumerate(sorted(weights))}
    for shard in sorted(set(places.values())):
        some = {name: tensor for name, tensor in weights.items() if places[name] == shard}
        save_file(some, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    image, prompts = np.zeros((20, 30, 3), np.uint8), ["vessels"]
    (one,), (other,) = (load(kind, place).segment([image], prompts) for place in (whole, folder))
    np.testing.assert_array_equal(one.logits_PHW, other.logits_PHW)
    lost = folder / "model-2.safetensors"
    content = lost.read_bytes()
    lost.write_bytes(content[:-50])
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors is no file of a usable checkpoint"):
        load(kind, folder)
    lost.unlink()
    with pytest.raises(InputError, match=r"lacks model-2\.safetensors$"):
        TextPromptedFamily(kind, "float32").content_key(folder, None)
    (folder / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    load(kind, folder)  # the index is of another copy then


@pytest.mark.parametrize(
    "index",
    ["", "{", "[" * 200_000, "{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": []}}'],
)
def test_an_index_that_is_none_is_refused(made: tuple[Kind, Path], tmp_path: Path, index: str) -> None:
    """Read as strictly as all else: it may come from anywhere."""
    folder = tiny.make(tmp_path / "model", made[0])
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(IntegrityError, match=r"index\.json is no file of a usable checkpoint"):
        TextPromptedFamily(made[0], "float32").content_key(folder, None)


def test_pickles_beside_the_weights_are_never_opened(made: tuple[Kind, Path], tmp_path: Path) -> None:
    """Published folders have them; they are no content either."""
    kind, before = made
    folder = tiny.make(tmp_path / "model", kind)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    family = TextPromptedFamily(kind, "float32")
    assert family.content_key(folder, None) == family.content_key(before, None)
    load(kind, folder)


@pytest.mark.parametrize(
    ("name", "document", "why"),
    [
        ("config.json", {"model_type": "clip"}, "model_type is clip"),
        ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "auto_map"),
        ("adapter_config.json", {}, "adapter"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 3}}, "height and width"),
        ("preprocessor_config.json", {"size": 1_000_000}, "at most 4096"),
        ("preprocessor_config.json", {"size": 8, "image_mean": [1]}, "three numbers"),
        (
            "preprocessor_config.json",
            {"size": 8, "image_mean": [0, 0, 0], "image_std": [0, 1, 1]},
            "out of range",
        ),
    ],
)
def test_folders_that_ask_for_something_else_are_refused(
    made: tuple[Kind, Path], tmp_path: Path, name: str, document: dict[str, object], why: str
) -> None:
    """Code, adapters, other networks, and preparations that are not known here."""
    kind, _ = made
    folder = tiny.make(tmp_path / "model", kind)
    (folder / name).write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match=why):
        load(kind, folder)


@pytest.mark.parametrize(
    ("kind", "name", "change", "why"),
    [
        ("clipseg", "config.json", {"extract_layers": [0, 99]}, r"extract_layers .* not among 4"),
        ("clipseg", "config.json", {"projection_dim": "wide"}, "cannot be loaded"),
        ("clipseg", "preprocessor_config.json", {"size": 5}, "less than a patch of 8"),
        ("sam3", "preprocessor_config.json", {"size": 112}, "the network reads 56 x 56"),
    ],
)
def test_configurations_that_do_not_fit_are_refused_before_a_picture_is_asked_for(
    tmp_path: Path, kind: Kind, name: str, change: dict[str, object], why: str
) -> None:
    """The network would stumble over them in the middle of the table."""
    folder = tiny.make(tmp_path / "model", kind)
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(document | change))
    with pytest.raises(IntegrityError, match=why):
        load(kind, folder)


def test_special_tokens_in_a_prompt_are_refused(made: tuple[Kind, Path]) -> None:
    """What stands behind the token of the end would not be read."""
    with pytest.raises(SpecError, match="special token"):
        load(*made).segment(photographs(1), [f"vessels {tiny.EOS} fine"])


def test_preparation_may_stand_with_the_processor(tmp_path: Path) -> None:
    """As transformers 5 writes it."""
    folder = tiny.make(tmp_path / "model", "clipseg")
    path = folder / "preprocessor_config.json"
    wanted, document = preparation(folder), json.loads(path.read_text())
    path.unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": document}))
    assert preparation(folder) == wanted
    assert folder / "processor_config.json" in content_files(folder)


def test_nothing_is_said_on_the_standard_streams(
    made: tuple[Kind, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """They are the job's own."""
    load(*made).segment(photographs(1), PROMPTS[:1])
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_the_checkpoints_are_real_ones(made: tuple[Kind, Path]) -> None:
    """transformers recognises them by itself."""
    kind, folder = made
    assert AutoModel.from_pretrained(folder).config.model_type == kind
