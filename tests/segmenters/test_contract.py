"""What every kind of segmenter promises, held against all of them through the door that a spec uses."""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save_file

from job import segmenters
from job.data.image_names import ImageNames, index
from job.logs import Output
from job.segmenters import Segmenter
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT
from job.segmenters.remote_code import trust_digest
from job.spec.segmenter import AnySegmenterSpec, SegmenterSpec
from tests.segmenters import plugin_package
from tests.segmenters.precomputed_files import compute_each
from tests.segmenters.sa2va import stand_in
from tests.segmenters.text_prompted import tiny

PROMPTS = ("Segment the vessels", "fine", "please the major vessels")
KINDS = ("promptable_unet", "sa2va", "clipseg", "sam3", "precomputed", "plugin")
TOLERANCE = 4e-3
"""Logits of float32 alone and in company, of which float16 keeps three digits; relative to their spread."""


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Return pictures of odd, wide and equal sizes, a grey one, and one without any light."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)
    grey = np.repeat(np.add.outer(smooth // 2, smooth // 2)[..., None], 3, axis=2)
    return {
        "odd": rng.integers(0, 256, (37, 51, 3), np.uint8),
        "wide": rng.integers(0, 256, (33, 120, 3), np.uint8),
        "grey": grey,
        "noise": rng.integers(0, 256, (64, 64, 3), np.uint8),
        "dark": np.zeros((64, 64, 3), np.uint8),
        "large": rng.integers(0, 256, (300, 410, 3), np.uint8),
    }


@dataclass
class Case:
    """A kind with a folder of its own, which a test may change."""

    kind: str
    folder: Path
    site: Path
    options: dict[str, Any]

    def spec(self, **changes: Any) -> AnySegmenterSpec:
        section = {"kind": self.kind, "uri": str(self.folder), **self.options, **changes}
        return TypeAdapter(SegmenterSpec).validate_python(section)

    def key(self, **changes: Any) -> str:
        return segmenters.content_key(self.spec(**changes), self.folder)

    def load(self, **changes: Any) -> Segmenter:
        names = ImageNames(lambda: index(pictures().items()))
        log = Output(stream=io.StringIO()).log
        return segmenters.load(self.spec(**changes), self.folder, "cpu", log, names=names)


def case_of(kind: str, root: Path) -> Case:
    folder, site, options = root / "model", root / "site", {}
    if kind == "promptable_unet":
        shutil.copytree(EMBEDDED_CHECKPOINT, folder)
    elif kind == "sa2va":
        stand_in.make(folder)
        options = {"dtype": "float32", "trust_code": trust_digest(folder)}
    elif kind in ("clipseg", "sam3"):
        tiny.make(folder, kind)
    elif kind == "precomputed":
        compute_each(pictures().items(), folder, PROMPTS)
    else:
        plugin_package.install(site)
        plugin_package.checkpoint(folder)
        options = {"name": "darkness", "options": {"level": 0.5}}
    return Case(kind, folder, site, options)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A case of each kind, shared by tests that only read it."""
    return case_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def _installed(made: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if made.site.exists():
        monkeypatch.syspath_prepend(str(made.site))
    yield
    sys.modules.pop("seg_darkness", None)


@pytest.fixture
def own(made: Case, tmp_path: Path) -> Case:
    """A copy of the case that the test may change."""
    shutil.copytree(made.folder, tmp_path / "model")
    return Case(made.kind, tmp_path / "model", made.site, made.options)


def require_close(one: NDArray[np.float16], other: NDArray[np.float16]) -> None:
    assert one.shape == other.shape
    scale = max(1.0, float(np.abs(one.astype(np.float32)).max()))
    np.testing.assert_allclose(
        one.astype(np.float32), other.astype(np.float32), rtol=0, atol=TOLERANCE * scale
    )


def some(names: Sequence[str]) -> list[NDArray[np.uint8]]:
    return [pictures()[name] for name in names]


def test_every_kind_of_a_spec_is_here() -> None:
    """A new kind joins this list."""
    kinds = [one.model_fields["kind"].annotation for one in get_args(AnySegmenterSpec)]
    assert tuple(get_args(kind)[0] for kind in kinds) == KINDS


def test_answers_have_the_shapes_of_the_protocol(made: Case) -> None:
    """Whatever the picture's size and content: float16 [P, h, w], finite, and embeddings of one length."""
    answers = made.load().segment(list(pictures().values()), PROMPTS)
    assert len(answers) == len(pictures())
    for answer in answers:
        assert answer.logits_PHW.dtype == np.float16
        assert answer.logits_PHW.ndim == 3
        assert len(answer.logits_PHW) == len(PROMPTS)
        assert np.isfinite(answer.logits_PHW).all()
        assert answer.embedding_D.dtype == np.float32
        assert np.isfinite(answer.embedding_D).all()
    assert len({answer.embedding_D.shape for answer in answers}) == 1
    assert answers[0].embedding_D.ndim == 1


def test_company_changes_nothing_but_rounding(made: Case) -> None:
    """An image alone, with one prompt alone, and among others."""
    segmenter, names = made.load(), ("noise", "grey", "odd")
    together = segmenter.segment(some(names), PROMPTS)
    for image, answer in zip(some(names), together, strict=True):
        (alone,) = segmenter.segment([image], PROMPTS)
        require_close(alone.logits_PHW, answer.logits_PHW)
        np.testing.assert_allclose(alone.embedding_D, answer.embedding_D, rtol=1e-3, atol=1e-4)
        (single,) = segmenter.segment([image], PROMPTS[1:2])
        require_close(single.logits_PHW, answer.logits_PHW[1:2])


def test_order_is_kept(made: Case) -> None:
    """Of images and of prompts, and prompts and images do make a difference."""
    segmenter, names = made.load(), ("noise", "grey", "odd")
    forth = segmenter.segment(some(names), PROMPTS)
    back = segmenter.segment(some(names[::-1]), PROMPTS[::-1])
    for one, other in zip(forth, back[::-1], strict=True):
        require_close(one.logits_PHW, other.logits_PHW[::-1])
    assert not np.allclose(forth[0].embedding_D, forth[1].embedding_D, atol=1e-3)
    assert not np.array_equal(forth[0].logits_PHW[0], forth[0].logits_PHW[1])


def test_equal_calls_give_equal_bits_across_loads(made: Case) -> None:
    """Nothing is left to chance, and nothing is left of an earlier call."""
    calls = [(some(("noise", "odd")), PROMPTS), (some(("grey",)), PROMPTS[:1])]
    first, second = made.load(), made.load()
    for images, prompts in (*calls, calls[0]):
        for one, other in zip(first.segment(images, prompts), second.segment(images, prompts), strict=True):
            assert one.logits_PHW.tobytes() == other.logits_PHW.tobytes()
            assert one.embedding_D.tobytes() == other.embedding_D.tobytes()


@pytest.mark.parametrize("made", [kind for kind in KINDS if kind != "plugin"], indirect=True)
def test_what_is_no_image_and_no_prompt_is_a_mistake(made: Case) -> None:
    """Of the program's, so that it is a ValueError; a plug-in is not asked to look."""
    segmenter = made.load()
    with pytest.raises(ValueError, match="prompt"):
        segmenter.segment(some(("noise",)), [])
    with pytest.raises(ValueError, match="uint8"):
        segmenter.segment([pictures()["noise"].astype(np.float32)], PROMPTS)  # type: ignore[list-item]


def test_the_key_needs_no_model_and_is_that_of_the_loaded_one(made: Case) -> None:
    """64 hex digits, the same each time and wherever the folder lies."""
    key = made.key()
    assert len(key) == 64
    assert int(key, 16) >= 0
    assert made.key() == key == made.load().key


def test_a_moved_folder_has_the_same_key(made: Case, own: Case) -> None:
    """The place is no content; nor is how much is computed at once."""
    assert own.key(batch_size=7) == made.key()


def test_another_weight_is_another_key(made: Case, own: Case) -> None:
    """A single value of the content."""
    change(own)
    assert own.key() != made.key()


def test_another_dtype_or_option_is_another_key(made: Case) -> None:
    """Whatever a spec can say of the logits."""
    others: dict[str, list[dict[str, Any]]] = {
        "sa2va": [{"dtype": "bfloat16"}, {"path": "generate"}, {"several_seg": "union"}],
        "clipseg": [{"dtype": "bfloat16"}, {"dtype": "float16"}],
        "sam3": [{"dtype": "bfloat16"}, {"dtype": "float16"}],
        "plugin": [{"options": {"level": 0.6}}],
    }
    keys = [made.key(), *(made.key(**changes) for changes in others.get(made.kind, []))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("made", ["promptable_unet", "sa2va", "clipseg", "sam3"], indirect=True)
def test_another_configuration_is_another_key(made: Case, own: Case) -> None:
    """Also where the weights are the same."""
    config = own.folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert own.key() != made.key()


def change(own: Case) -> None:
    """Change a value in a folder's content."""
    if own.kind == "plugin":
        plugin_package.checkpoint(own.folder, 0.25)
        return
    if own.kind == "precomputed":
        path = next(own.folder.rglob("*.npz"))
        np.savez_compressed(path, probabilities=np.load(path)["probabilities"] * np.float16(0.5))
        return
    path = next(own.folder.glob("*.safetensors"))
    weights = load_file(path)
    name = min(weights)
    weights[name] = np.asarray(weights[name] * 1.5 + 1)
    save_file(weights, path, {"format": "pt"})
