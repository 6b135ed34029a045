"""Dataset folders: what loads, what is refused with which words, and digests."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from job.data.annotations import KEYS, MOST_BYTES, list_folder
from job.data.dataset import Dataset, listing_digest, read_folder, with_unlabelled
from job.data.images import read_image, write_image, write_mask
from job.data.samples import Polygons, content_digest
from job.errors import InputError
from tests.data.another_user import another_user, open_folder

__all__ = ["open_folder"]

SIZE = (64, 80)


def put_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8))


def put_mask(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    write_mask(path, np.random.default_rng(seed).random(size) < 0.1)


def annotate(root: Path, entries: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotations.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return root


def ours(root: Path, n: int = 3) -> list[dict[str, Any]]:
    for i in range(n):
        put_image(root / "images" / f"a{i}.png", i)
        put_mask(root / "masks" / f"a{i}.png", i)
    return [{"image": f"images/a{i}.png", "mask": f"masks/a{i}.png", "patient": f"p{i}"} for i in range(n)]


def problem(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_folder(root)
    return str(caught.value)


def test_our_format_is_read(tmp_path: Path) -> None:
    """Every key arrives, and what is left out has its default: no mask, no field, the stem as patient."""
    entries = ours(tmp_path)
    entries[0] |= {"fov": "masks/a1.png", "split": "train", "camera": "ignored"}
    entries[2] = {"image": "images/a2.png", "mask": None}
    samples = read_folder(annotate(tmp_path, entries))
    assert [s.name for s in samples] == ["a0", "a1", "a2"]
    assert [s.patient for s in samples] == ["p0", "p1", "a2"]
    assert [s.split for s in samples] == ["train", None, None]
    assert samples[0].fov == tmp_path / "masks/a1.png"
    assert samples[1].mask == tmp_path / "masks/a1.png"
    assert samples[2].mask is None


def test_sa2va_format_is_read(tmp_path: Path) -> None:
    """Polygons per text are united; the image's name is looked up in images/ first."""
    put_image(tmp_path / "images" / "a.png")
    put_image(tmp_path / "a.png", seed=1)
    mask = [[[0, 0, 10, 0, 10, 10, 0, 10]], [[20, 20, 30, 20, 30, 30, 20, 30], [5, 5, 15, 5, 15, 15, 5, 15]]]
    entry = {"image": "a.png", "mask": mask, "text": ["vessel", "vein"], "patient": 7}
    (sample,) = read_folder(annotate(tmp_path, [entry]))
    assert sample.image == tmp_path / "images" / "a.png"
    assert isinstance(sample.mask, Polygons)
    assert (sample.mask.texts, sample.patient) == (("vessel", "vein"), "7")
    truth = Dataset([sample]).load(sample).truth
    assert truth is not None
    assert truth.sum() == 100 + 100 + 100 - 25


def test_sa2va_without_polygons(tmp_path: Path) -> None:
    """An empty list of masks is no annotation; a text without polygons is an empty mask."""
    for name in ("a", "b"):
        put_image(tmp_path / "images" / f"{name}.png")
    entries = [
        {"image": "a.png", "mask": [], "text": []},
        {"image": "b.png", "mask": [[]], "text": ["vessel"]},
    ]
    unlabelled, empty = read_folder(annotate(tmp_path, entries))
    assert unlabelled.mask is None
    assert empty.mask == Polygons((), ("vessel",))


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[[1, 2, 3, 4]]], ["few points"]),
        ([[[1, 2, 3, 4, 5, 6, 7]]], ["odd"]),
        ([[[1, 2, 3, 4, 5, "6"]]], ["a string"]),
        ([[[1, 2, 3, 4, 5, True]]], ["a boolean"]),
        ([[1, 2, 3, 4, 5, 6]], ["one level too few"]),
        ([[[1, 2, 3, 4, 5, 6]]], ["one", "too many"]),
        ([[[1, 2, 3, 4, 5, 6]]], [1]),
    ],
)
def test_broken_polygons_are_refused(tmp_path: Path, mask: Any, text: Any) -> None:
    """Polygons of other shapes than Sa2VA's end with the entry's place."""
    put_image(tmp_path / "images" / "a.png")
    annotate(tmp_path, [{"image": "a.png", "mask": mask, "text": text}])
    assert "annotations.json[0].mask" in problem(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_polygons_of_no_number_are_refused(tmp_path: Path, number: str) -> None:
    """NaN and infinity, which Python's JSON reads, are no coordinates."""
    put_image(tmp_path / "images" / "a.png")
    annotate(tmp_path, f'[{{"image": "a.png", "mask": [[[1, 2, 3, 4, 5, {number}]]], "text": ["x"]}}]')
    assert "annotations.json[0].mask" in problem(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../out.png",
        "images/../../out.png",
        "C:\\out.png",
        "\\\\host\\out.png",
        "..\\out.png",
        "a\0b",
    ],
)
@pytest.mark.parametrize("key", ["image", "mask", "fov"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: str, key: str) -> None:
    """Absolute paths, `..` and other systems' spellings of both never reach the disk."""
    put_image(tmp_path / "out.png")
    entry = ours(tmp_path / "data", 1)[0] | {key: path}
    annotate(tmp_path / "data", [entry])
    assert "leaves the dataset folder" in problem(tmp_path / "data")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """A symbolic link to a file elsewhere is refused in every layout; one inside of the folder is fine."""
    put_image(tmp_path / "out.png")
    root = tmp_path / "data"
    entries = ours(root, 1)
    (root / "images" / "inside.png").symlink_to("a0.png")
    annotate(root, [*entries, {"image": "images/inside.png"}])
    assert len(read_folder(root)) == 2
    (root / "images" / "outside.png").symlink_to(tmp_path / "out.png")
    annotate(root, [{"image": "images/outside.png"}])
    assert "images/outside.png: is a link out" in problem(root)
    (root / "annotations.json").unlink()
    assert "images/outside.png: is a link out" in problem(root)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Missing files, doubles, unknown splits, misspelt keys and wrong types come in one error."""
    entries = ours(tmp_path)
    entries += [entries[0], {"image": "images/no.png"}]
    entries[1] |= {"split": "val"}
    entries[2] |= {"pateint": "x"}
    annotate(tmp_path, [*entries, "text"])
    message = problem(tmp_path)
    assert "5 mistakes" in message
    assert "annotations.json[1].split: unknown split 'val'; did you mean 'validation'?" in message
    assert "annotations.json[2]: unknown key 'pateint'; did you mean 'patient'?" in message
    assert "annotations.json[4].image: 'images/no.png' is not there" in message
    assert "annotations.json[5]: must be an object, is a string" in message
    assert "images/a0.png: is listed 2 times" in message


def test_long_lists_of_mistakes_are_cut(tmp_path: Path) -> None:
    """Of many mistakes the first five are shown and the rest counted."""
    annotate(tmp_path, [{"image": f"images/{i}.png"} for i in range(12)])
    message = problem(tmp_path)
    assert message.count("is not there") == 5
    assert "and 7 more" in message


def test_forgotten_images_folder_is_guessed(tmp_path: Path) -> None:
    """A name without `images/` in our format is answered with the path to write."""
    ours(tmp_path, 1)
    annotate(tmp_path, [{"image": "a0.png", "mask": "masks/a0.png"}])
    assert "write images/a0.png" in problem(tmp_path)


def test_unlabelled_with_a_mask_contradicts_itself(tmp_path: Path) -> None:
    """`split: unlabelled` beside a mask is refused, as either may be the mistake."""
    entries = ours(tmp_path, 1)
    annotate(tmp_path, [entries[0] | {"split": "unlabelled"}])
    assert "'unlabelled', yet there is a mask" in problem(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"image": ]', "annotations.json:1:12: is not JSON"),
        ('{"images": []}', "must be a list of entries, is an object"),
        ("[]", "lists no image"),
        ("[" * 100_000, "annotations.json"),
        ('[{"mask": null}]', "annotations.json[0].image: is missing"),
        ('[{"image": 3}]', "annotations.json[0].image: must be a path, is a number"),
        ('[{"image": "%s.png"}]' % ("x" * 5000), "is not there"),
        ('[{"image": "\\ud800.png"}]', "is not there"),
    ],
)
def test_unreadable_annotations(tmp_path: Path, text: str, expected: str) -> None:
    """What is no list of entries is told with its place, never as a stack trace."""
    annotate(tmp_path, text)
    assert expected in problem(tmp_path)


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    """A patient of 5,000 digits, which Python refuses to convert, is a mistake and no stack trace."""
    annotate(tmp_path, '[{"image": "images/a.png", "patient": %s}]' % ("7" * 5000))
    assert "annotations.json: holds a number of too many digits" in problem(tmp_path)


def test_a_patient_of_half_a_character_is_refused(tmp_path: Path) -> None:
    """A lone surrogate, which JSON can spell and UTF-8 cannot, is refused before it is hashed."""
    annotate(tmp_path, [ours(tmp_path, 1)[0] | {"patient": "p\ud800"}])
    assert r"annotations.json[0].patient: 'p\ud800' holds half a character" in problem(tmp_path)


@pytest.mark.parametrize(
    ("split", "expected"), [("trian", "did you mean 'train'?"), (["train"], "say 'train', "), (1, "say ")]
)
def test_a_split_is_guessed_from_a_word_alone(tmp_path: Path, split: Any, expected: str) -> None:
    """A misspelt split is answered with a guess, a list or a number with what may be said."""
    annotate(tmp_path, [ours(tmp_path, 1)[0] | {"split": split}])
    message = problem(tmp_path)
    assert f"unknown split {split!r}; {expected}" in message


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "spelt", [b"images/p\xf3.png", b"masks/p\xf3.png", b"images/\xf3/a.png", b"images/p\xf3_mask.png"]
)
def test_file_names_of_another_encoding_are_refused(tmp_path: Path, spelt: bytes, listed: bool) -> None:
    """A name that is not UTF-8 is told in text that can be printed, in both layouts."""
    entries = ours(tmp_path, 3)
    name = os.fsdecode(spelt)
    try:
        put_image(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    if listed:
        annotate(tmp_path, [*entries, {"image": name}])
    message = problem(tmp_path)
    message.encode()
    assert rf"{spelt.decode('utf-8', 'backslashreplace')}: has a name that is not UTF-8" in message
    for sample in list_folder(tmp_path).samples:
        f"{sample.name} {sample.patient}".encode()


@pytest.mark.parametrize("folder", ["masks", "images", "images/deep", "."])
def test_folders_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """A folder without read permission is told, and its files are not taken for absent ones."""
    ours(tmp_path)
    (tmp_path / "images" / "deep").mkdir()
    denied = tmp_path / folder
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if denied == tmp_path or Path(path) == denied:
            raise PermissionError(errno.EACCES, "Permission denied", str(denied))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"{denied}: may not be read" in problem(tmp_path)


def test_listed_files_behind_a_closed_folder_are_not_called_missing(open_folder: Path) -> None:
    """A mask in a folder that may not be entered is refused for that reason."""
    annotate(open_folder, ours(open_folder))
    (open_folder / "masks").chmod(0)
    with another_user():
        assert "masks/a0.png: may not be read" in problem(open_folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" + "0," * 2_000_000 + "0]", "lists 2,000,001 entries, more than 1,000,000"),
        ("[" + "[]," * 5_000_000 + "0]", "holds more than 5,000,000 lists and objects"),
        ('[{"image": "images/a0.png", "mask": null, "mask": 1}]', "an entry has the key 'mask' twice"),
        ('[{"image": "images/a0.png", "patient": ' + "9" * 5000 + "}]", "a number of too many digits"),
        ('[{"image": "images/a0.png", "patient": NaN}]', "annotations.json[0].patient: must be a name"),
        ('[{"image": "images/a0.png", "split": ["train"]}]', "annotations.json[0].split: unknown split"),
        ('[{"image": "images/a0.png", "split": "' + "x" * 10_000 + '"}]', "unknown split"),
        ('{"a":' * 100_000, "nests lists or objects too deep"),
    ],
)
def test_annotations_without_measure_are_refused_in_a_line(tmp_path: Path, text: str, expected: str) -> None:
    """Too many, too deep, twice, too long: refused at once, and the message does not repeat the file."""
    ours(tmp_path, 1)
    annotate(tmp_path, text)
    message = problem(tmp_path)
    assert expected in message
    assert len(message) < 1000


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """What no list of images ever is would not fit into memory: its size is looked at first."""
    with (tmp_path / "annotations.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert "annotations.json: has more than 268,435,456 bytes" in problem(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("images/a.png"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "other"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(JSON | st.fixed_dictionaries({"image": st.just("images/a.png"), "mask": JSON}), max_size=3))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]) -> None:
    """Whatever JSON annotations.json holds, the answer is samples or an `InputError`."""
    root = annotate(tmp_path_factory.mktemp("any"), entries)
    put_image(root / "images" / "a.png", size=(4, 5))
    try:
        samples = read_folder(root)
    except InputError as error:
        assert str(error).startswith(str(root))  # noqa: PT017 - the other branch is just as right
    else:
        assert len(samples) == len(entries) == 1
        assert Dataset(samples).load(samples[0]).image.shape == (4, 5, 3)


def test_annotations_of_another_encoding(tmp_path: Path) -> None:
    """UTF-8 with a byte-order mark is read; bytes that are no UTF-8 are refused."""
    text = json.dumps(ours(tmp_path, 1)).encode()
    (tmp_path / "annotations.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert len(read_folder(tmp_path)) == 1
    (tmp_path / "annotations.json").write_bytes(b"\xff\xfe[\0]\0")
    assert "annotations.json: is not UTF-8 at byte 0" in problem(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is missing, a file, or empty is told apart."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in problem(tmp_path / "missing")
    assert "is not a folder" in problem(tmp_path / "file")
    assert "holds no image" in problem(tmp_path / "empty")


def test_folders_without_annotations(tmp_path: Path) -> None:
    """Masks and fields of view are paired by stem, tolerating usual endings; the rest is unlabelled."""
    for name in ("a", "b", "c", "d"):
        put_image(tmp_path / "images" / f"{name}.png")
    put_mask(tmp_path / "masks" / "a.png")
    put_mask(tmp_path / "masks" / "b_1stHO.png")
    put_mask(tmp_path / "masks" / "c_mask.png")
    put_mask(tmp_path / "fov" / "a_mask.png")
    (tmp_path / "images" / ".DS_Store").write_text("")
    (tmp_path / "images" / "notes.txt").write_text("")
    samples = {s.name: s for s in read_folder(tmp_path)}
    masks = {name: s.mask.name for name, s in samples.items() if isinstance(s.mask, Path)}
    assert masks == {"a": "a.png", "b": "b_1stHO.png", "c": "c_mask.png"}
    assert samples["d"].mask is None
    assert {name for name, s in samples.items() if s.fov} == {"a"}


def test_ambiguous_and_stray_masks_are_refused(tmp_path: Path) -> None:
    """Two masks for an image, and a mask for none, are mistakes rather than guesses."""
    put_image(tmp_path / "images" / "a.png")
    put_mask(tmp_path / "masks" / "a.png")
    put_mask(tmp_path / "masks" / "a_gt.png")
    put_mask(tmp_path / "masks" / "z.png")
    message = problem(tmp_path)
    assert "images/a.png: has several partners: masks/a.png, masks/a_gt.png" in message
    assert "masks/z.png: belongs to no image" in message


def test_pictures_alone_are_unlabelled(tmp_path: Path) -> None:
    """A folder of pictures, with or without `images/`, is a set of unlabelled images."""
    put_image(tmp_path / "flat" / "a.png")
    put_image(tmp_path / "deep" / "images" / "sub" / "a.png")
    for name in ("flat", "deep"):
        (sample,) = read_folder(tmp_path / name)
        assert (sample.name, sample.mask) == ("a", None)


def test_default_patient_survives_growth(tmp_path: Path) -> None:
    """The default patient, and so the side by hash, stays when an image of the same stem joins."""
    put_image(tmp_path / "images" / "l" / "01.png")
    before = read_folder(tmp_path)[0]
    put_image(tmp_path / "images" / "r" / "01.png")
    after = read_folder(tmp_path)[0]
    assert before.name != after.name
    assert before.patient == after.patient == "01"


def test_loading_resizes_all_three(tmp_path: Path) -> None:
    """Image, truth and field of view come at one width; None keeps the pixels as they are."""
    entries = ours(tmp_path, 1)
    (sample,) = read_folder(annotate(tmp_path, [entries[0] | {"fov": "masks/a0.png"}]))
    loaded = Dataset([sample], 40).load(sample)
    assert loaded.truth is not None
    assert loaded.fov is not None
    assert (loaded.image.shape, loaded.truth.shape, loaded.fov.shape) == ((32, 40, 3), (32, 40), (32, 40))
    np.testing.assert_array_equal(Dataset([sample]).load(sample).image, read_image(sample.image))
    unlabelled = Dataset([sample]).load(replace(sample, mask=None, fov=None))
    assert unlabelled.truth is None
    assert unlabelled.fov is None


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    """A mask that does not fit its image ends with both sizes."""
    entries = ours(tmp_path, 1)
    put_mask(tmp_path / "masks" / "a0.png", size=(80, 64))
    (sample,) = read_folder(annotate(tmp_path, entries))
    with pytest.raises(InputError, match=r"a0\.png: has 64 x 80 pixels, a0\.png has 80 x 64"):
        Dataset([sample], 32).load(sample)


def test_rotated_photographs_fit_masks_drawn_upright(tmp_path: Path) -> None:
    """A mask of the size that the photograph has upright fits, though the stored sides are exchanged."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 80)).save(tmp_path / "images" / "a.jpg", exif=exif)
    put_mask(tmp_path / "masks" / "a.png", size=(64, 80))
    (sample,) = read_folder(tmp_path)
    assert Dataset([sample]).load(sample).image.shape == (64, 80, 3)


def test_listing_digest_sees_every_change(tmp_path: Path) -> None:
    """Adding, touching, growing or renaming a file changes the digest; reading and hidden files do not."""
    annotate(tmp_path, ours(tmp_path, 2))
    seen = [listing_digest(tmp_path)]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("")
    read_folder(tmp_path)
    assert listing_digest(tmp_path) == seen[0]
    os.utime(tmp_path / "images" / "a0.png", ns=(1, 1))
    seen.append(listing_digest(tmp_path))
    (tmp_path / "masks" / "a0.png").rename(tmp_path / "masks" / "b0.png")
    seen.append(listing_digest(tmp_path))
    put_image(tmp_path / "images" / "new.png")
    seen.append(listing_digest(tmp_path))
    (tmp_path / "images" / "broken.png").symlink_to("nowhere.png")
    seen.append(listing_digest(tmp_path))
    assert len(set(seen)) == 5
    with pytest.raises(InputError):
        listing_digest(tmp_path / "missing")


def test_content_digest_sees_bytes_name_and_patient(tmp_path: Path) -> None:
    """The digest moves with any file's bytes, the name and the patient, not with the folder's place."""
    for root in (tmp_path / "one", tmp_path / "two"):
        annotate(root, ours(root, 1))
    (one,), (two,) = read_folder(tmp_path / "one"), read_folder(tmp_path / "two")
    assert content_digest(one) == content_digest(two)
    digests = {content_digest(one), content_digest(replace(one, name="z"))}
    digests |= {content_digest(replace(one, patient="z")), content_digest(replace(one, mask=None))}
    digests |= {content_digest(replace(one, mask=Polygons(((0, 0, 1, 0, 1, 1),))))}
    put_mask(tmp_path / "one" / "masks" / "a0.png", seed=9)
    digests.add(content_digest(one))
    assert len(digests) == 6


def test_dataset_digest_is_of_a_split(tmp_path: Path) -> None:
    """A split's digest ignores order and other splits, and sees the width."""
    samples = read_folder(annotate(tmp_path, ours(tmp_path, 3)))
    sides = [replace(s, split=side) for s, side in zip(samples, ("train", "train", "test"), strict=True)]
    dataset = Dataset(sides, 64)
    assert [s.name for s in dataset.of("train")] == ["a0", "a1"]
    assert [s.name for s in dataset.of("test", "train")] == ["a0", "a1", "a2"]
    assert dataset.digest("train") == Dataset(sides[1::-1], 64).digest("train")
    assert dataset.digest("train") != Dataset(sides, 32).digest("train")
    assert dataset.digest() != dataset.digest("train") != dataset.digest("test")


def test_unlabelled_images_join_under_unique_names(tmp_path: Path) -> None:
    """A second folder's images lose mask and split, and never take a name that is in use."""
    annotate(tmp_path / "one", ours(tmp_path / "one", 2))
    annotate(tmp_path / "two", ours(tmp_path / "two", 3))
    first, second = read_folder(tmp_path / "one"), read_folder(tmp_path / "two")
    joined = with_unlabelled(first, second)
    assert [s.name for s in joined] == ["a0", "a1", "unlabelled-a0", "unlabelled-a1", "a2"]
    assert all((s.mask, s.split) == (None, "unlabelled") for s in joined[2:])
    assert joined[:2] == first


def test_listing_needs_no_decoder() -> None:
    """`job.data.dataset` comes without numpy, Pillow or torch: `validate` and a finished run stay quick."""
    code = "import sys, job.data.dataset; print(*({'numpy', 'PIL', 'torch', 'skimage'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_chase_db1_loads() -> None:
    """The real data set reads as 28 photographs of 14 children, each with a plausible mask."""
    folder = os.environ.get("CHASE_DB1_DIR")
    if folder is None:
        pytest.skip("CHASE_DB1_DIR names no folder with the CHASE_DB1 data set")
    samples = read_folder(Path(folder))
    assert (len(samples), len({s.patient for s in samples})) == (28, 14)
    assert list_folder(Path(folder)).findings == []
    loaded = Dataset(samples, 256).load(samples[0])
    assert loaded.truth is not None
    assert loaded.image.shape == (246, 256, 3)
    assert 0.03 < loaded.truth.mean() < 0.15
