"""Probabilities in files as a segmenter: layout, formats, damage, and the logits that come of them."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from job.data.image_names import ImageNames, index
from job.errors import InputError, IntegrityError
from job.segmenters.precomputed.adapter import LEAST, embedding_of
from job.segmenters.precomputed.door import PrecomputedFamily
from job.segmenters.precomputed.layout import Layout, slug
from job.segmenters.precomputed.reading import read_probabilities
from job.segmenters.protocol import Segmenter
from tests.segmenters.fakes import photographs

PROMPTS = ("Segment the vessels.", "Only the FINE ones!")


def probabilities(seed: int, size: tuple[int, int] = (12, 16)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(size, dtype=np.float32)


def write_npz(path: Path, **arrays: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def opened(root: Path, images: dict[str, NDArray[np.uint8]]) -> Segmenter:
    return PrecomputedFamily().load(root, "cpu", None, ImageNames(lambda: index(images.items())))


def folder_of(root: Path, names: tuple[str, ...] = ("a", "b")) -> dict[str, NDArray[np.uint8]]:
    """Write probabilities of two prompts an image; returns the images."""
    for i, name in enumerate(names):
        for j, prompt in enumerate(PROMPTS):
            write_npz(root / name / f"{slug(prompt)}.npz", probabilities=probabilities(10 * i + j))
    return dict(zip(names, photographs(len(names)), strict=True))


def test_logits_are_those_of_the_files_whatever_the_order(tmp_path: Path) -> None:
    """Each image gets its own, each prompt in its place."""
    images = folder_of(tmp_path)
    segmenter = opened(tmp_path, images)
    second, first = segmenter.segment([images["b"], images["a"]], PROMPTS[::-1])
    for answer, i in ((first, 0), (second, 1)):
        for logits, j in zip(answer.logits_PHW, (1, 0), strict=True):
            wanted = probabilities(10 * i + j).astype(np.float64)
            np.testing.assert_allclose(1 / (1 + np.exp(-logits.astype(np.float64))), wanted, atol=2e-3)
        assert answer.logits_PHW.dtype == np.float16


def test_certain_pixels_are_finite_and_a_half_is_zero(tmp_path: Path) -> None:
    """Whatever is above one half is foreground at threshold 0.5, and nothing else."""
    values = np.array([[0.0, 0.5], [1.0, 0.5001]], np.float32)
    write_npz(tmp_path / "a" / "x.npz", anything=values)
    image = np.zeros((2, 2, 3), np.uint8)
    ((logits,),) = [answer.logits_PHW for answer in opened(tmp_path, {"a": image}).segment([image], ["x"])]
    assert np.isfinite(logits).all()
    assert (logits > 0).tolist() == [[False, False], [True, True]]
    assert logits[1, 0] == pytest.approx(np.log((1 - LEAST) / LEAST), rel=1e-3)


@pytest.mark.parametrize("depth", [8, 16])
def test_pictures_of_8_and_16_bits_are_shares_of_their_range(tmp_path: Path, depth: int) -> None:
    """As exact as their depth."""
    levels = (probabilities(0).astype(np.float64) * (2**depth - 1)).round()
    picture = levels.astype(np.uint8 if depth == 8 else np.uint16)
    Image.fromarray(picture).save(tmp_path / "x.png")
    np.testing.assert_allclose(
        read_probabilities(tmp_path / "x.png"), probabilities(0), atol=0.51 / (2**depth - 1)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint16, np.bool_])
def test_arrays_of_any_plain_dtype_are_read(tmp_path: Path, dtype: type) -> None:
    """Whole numbers count by their range."""
    plain = probabilities(0) > 0.5
    whole = np.issubdtype(dtype, np.unsignedinteger)
    values = plain.astype(dtype) * (np.iinfo(dtype).max if whole else 1)
    path = write_npz(tmp_path / "x.npz", probabilities=values.astype(dtype))
    np.testing.assert_array_equal(read_probabilities(path), plain.astype(np.float32))


def test_maps_of_another_size_are_averaged_as_probabilities(tmp_path: Path) -> None:
    """A map of twice the image's size gives the mean of each four pixels, not that of their logits."""
    large = probabilities(0, (24, 32))
    write_npz(tmp_path / "a" / "x.npz", p=large)
    (image,) = photographs(1)
    (answer,) = opened(tmp_path, {"a": image}).segment([image], ["x"])
    wanted = large.reshape(12, 2, 16, 2).mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-answer.logits_PHW[0].astype(np.float64))), wanted, atol=2e-3)


def test_a_map_on_its_side_is_refused(tmp_path: Path) -> None:
    """Resized to its image it would look like a mask, and be none."""
    write_npz(tmp_path / "a" / "x.npz", p=probabilities(0, (16, 12)))
    (image,) = photographs(1)
    with pytest.raises(InputError, match="lies on its side"):
        opened(tmp_path, {"a": image}).segment([image], ["x"])


def test_missing_files_of_all_images_are_told_at_once(tmp_path: Path) -> None:
    """Whoever mends one mends all: at the first question, not image by image."""
    images = folder_of(tmp_path) | {"c": np.zeros((12, 16, 3), np.uint8)}
    (tmp_path / "b" / f"{slug(PROMPTS[1])}.npz").unlink()
    with pytest.raises(InputError, match="3 files of probabilities are missing") as caught:
        opened(tmp_path, images).segment([images["a"]], PROMPTS)
    for path in ("b/only-the-fine-ones", "c/only-the-fine-ones", "c/segment-the-vessels"):
        assert str(tmp_path / path) in str(caught.value)


def test_prompts_go_by_the_names_that_prompts_json_gives(tmp_path: Path) -> None:
    """Prompts of one slug need them; others may have them."""
    write_npz(tmp_path / "a" / "plain.npz", p=probabilities(0))
    write_npz(tmp_path / "a" / "segment.npz", p=probabilities(1))
    (image,) = photographs(1)
    with pytest.raises(InputError, match="would both be in segment"):
        opened(tmp_path, {"a": image}).segment([image], ["Segment", "segment!"])
    (tmp_path / "prompts.json").write_text(json.dumps({"segment!": "plain"}))
    (answer,) = opened(tmp_path, {"a": image}).segment([image], ["Segment", "segment!"])
    for logits, seed in zip(answer.logits_PHW, (1, 0), strict=True):
        np.testing.assert_allclose(
            1 / (1 + np.exp(-logits.astype(np.float64))), probabilities(seed), atol=2e-3
        )
    with pytest.raises(InputError, match="no letters or digits"):
        Layout.of(tmp_path).files(["a"], ["?!"])


@pytest.mark.parametrize("text", ["[]", "{", '{"x": 1}', '{"x": "../y"}', '{"x": ".y"}', '{"x": "y.npz"}'])
def test_a_prompts_json_of_no_use_is_refused(tmp_path: Path, text: str) -> None:
    """It never leads out of the folder."""
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"prompts\.json"):
        Layout.of(tmp_path)


def test_folders_go_by_the_names_that_images_have_in_the_job(tmp_path: Path) -> None:
    """Odd characters of a file name become underscores there; two folders of one image are refused."""
    write_npz(tmp_path / "eye 1" / "x.npz", p=probabilities(0))
    assert Layout.of(tmp_path).files(["eye_1"], ["x"]) == {("eye_1", "x"): tmp_path / "eye 1" / "x.npz"}
    (tmp_path / "eye_1").mkdir()
    with pytest.raises(InputError, match="would be of one image"):
        Layout.of(tmp_path)


def test_both_formats_of_one_map_are_refused(tmp_path: Path) -> None:
    """One of them is stale, and nobody can tell which."""
    write_npz(tmp_path / "a" / "x.npz", p=probabilities(0))
    Image.new("L", (16, 12)).save(tmp_path / "a" / "x.png")
    with pytest.raises(InputError, match="both there"):
        Layout.of(tmp_path).files(["a"], ["x"])


def test_two_pictures_of_one_name_are_refused() -> None:
    """Equal pixels under two names are one picture; two pictures of one name have one file between them."""
    one, other = photographs(2)
    assert list(index([("a", one), ("b", one)]).values()) == ["a"]
    with pytest.raises(InputError, match="two different images are called 'a'"):
        index([("a", one), ("a", other)])
    with pytest.raises(InputError, match="none of the data's"):
        ImageNames(lambda: index([("a", one)]))(other)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, probabilities=np.array([[{}]], dtype=object))
    return buffer.getvalue()


def _lying() -> bytes:
    """Return an array whose header promises more than memory holds."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1_000_000, 1_000_000)}
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("probabilities.npy", header.getvalue())
    return buffer.getvalue()


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        for _ in range(70):
            file.write(bytes(10_000_000))
    return buffer.getvalue()


def _saved(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "zip"),
        (b"PK\x03\x04", "zip"),
        (_saved(p=probabilities(0))[:-60], "zip"),
        (_pickled(), "object"),
        (_lying(), "shape"),
        (_saved(a=probabilities(0), b=probabilities(1)), "2 arrays"),
        (_saved(p=np.full((4, 4), 3.2)), "3.2"),
        (_saved(p=np.full((4, 4), -0.5)), "0 to 1"),
        (_saved(p=np.full((4, 4), np.nan)), "16 of its 16 values are NaN"),
        (_saved(p=np.zeros((0, 4))), "shape"),
        (_saved(p=np.zeros((3, 4, 4))), "shape"),
        (_saved(p=np.zeros((4, 4), np.int64)), "int64"),
        (_saved(p=np.zeros((4, 4), np.complex64)), "complex64"),
    ],
)
def test_damaged_and_hostile_arrays_are_integrity_errors(tmp_path: Path, content: bytes, why: str) -> None:
    """Exit code 4, with the path and what is wrong; nothing is unpickled."""
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"x.npz.*{why}"):
        read_probabilities(path)


def test_an_array_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    """700 MB of zeros are 700 KB in the file."""
    path = tmp_path / "x.npz"
    path.write_bytes(_bomb())
    assert path.stat().st_size < 2_000_000
    with pytest.raises(IntegrityError, match="unpacks to more than"):
        read_probabilities(path)


def test_pictures_that_are_no_maps_are_integrity_errors(tmp_path: Path) -> None:
    """Colours, other formats and cut files."""
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(IntegrityError, match="mode RGB"):
        read_probabilities(path)
    Image.new("L", (4, 4)).save(path, format="GIF")
    with pytest.raises(IntegrityError):
        read_probabilities(path)
    Image.fromarray((probabilities(0, (64, 64)) * 255).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(IntegrityError):
        read_probabilities(path)


def test_the_key_follows_every_file(tmp_path: Path) -> None:
    """Names and content; a folder without any is no checkpoint."""
    folder_of(tmp_path / "p")
    key = PrecomputedFamily().content_key
    keys = [key(tmp_path / "p", None)]
    write_npz(tmp_path / "p" / "a" / f"{slug(PROMPTS[0])}.npz", probabilities=probabilities(99))
    keys.append(key(tmp_path / "p", None))
    (tmp_path / "p" / "a").rename(tmp_path / "p" / "c")
    keys.append(key(tmp_path / "p", None))
    (tmp_path / "p" / "prompts.json").write_text("{}")
    keys.append(key(tmp_path / "p", None))
    assert len(set(keys)) == 4
    assert key(tmp_path / "p", None) == keys[-1]
    with pytest.raises(InputError, match="holds no probabilities"):
        key(tmp_path, None)


def test_the_embedding_tells_images_apart_and_needs_no_prompt() -> None:
    """The same 37 numbers for an image of any size in any company."""
    one, other = photographs(2)
    assert embedding_of(one).shape == embedding_of(np.zeros((3, 5, 3), np.uint8)).shape == (37,)
    assert embedding_of(one).dtype == np.float32
    assert not np.allclose(embedding_of(one), embedding_of(other))
    np.testing.assert_allclose(embedding_of(one)[:3], one.mean((0, 1)) / 255, rtol=1e-5)
