"""Digests beside the files: the formats that count, and what they promise."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import IntegrityError
from job.storage.checksums import Promises, promises_digests

A, B = sha256(b"a").hexdigest(), sha256(b"b").hexdigest()


def read(folder: Path, **files: str) -> dict[str, str]:
    """Return what files, whose names have `_` for `.` and `__` for `/`, promise."""
    named = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
    for name, text in named.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    promises = Promises.read(named, lambda name: folder / name, "s3://b/x")
    return {path: digest for path, (digest, _) in promises.of.items()}


@pytest.mark.parametrize(
    "path", ["manifest.json", "SHA256SUMS", "deep/SHA256SUMS", "a.sha256", "deep/a.sha256"]
)
def test_some_names_promise_digests(path: str) -> None:
    """A manifest at the top alone, lists of digests anywhere."""
    assert promises_digests(path)
    for other in ("deep/manifest.json", "SHA256SUMS.txt", "annotations.json", "sha256"):
        assert not promises_digests(other)


@pytest.mark.parametrize(
    "document",
    [
        {"a.png": A, "b/c.png": B},
        {"files": {"a.png": A, "b/c.png": B.upper()}},
        {"files": {"a.png": {"sha256": A, "size": 1}, "b/c.png": {"sha256": B, "key": "x"}}, "name": "n"},
    ],
)
def test_a_manifest_names_files_and_digests(tmp_path: Path, document: dict) -> None:
    """Directly, or below `files` as a run's manifest does."""
    assert read(tmp_path, manifest_json=json.dumps(document)) == {"a.png": A, "b/c.png": B}


@pytest.mark.parametrize("document", [{"name": "an app", "icons": []}, [1, 2], {}, {"files": ["a"]}, "x"])
def test_another_program_s_manifest_promises_nothing(tmp_path: Path, document: object) -> None:
    """It names no digest."""
    assert read(tmp_path, manifest_json=json.dumps(document)) == {}


def test_lists_are_read_as_sha256sum_writes_them(tmp_path: Path) -> None:
    """Text and binary mode, names relative to the list's folder, names with blanks."""
    text = f"{A}  ./a.png\n{B} *with blank.png\n\n"
    assert read(tmp_path, SHA256SUMS=text) == {"a.png": A, "with blank.png": B}
    assert read(tmp_path, deep__some_sha256=text) == {"deep/a.png": A, "deep/with blank.png": B}


def test_a_bare_digest_is_of_the_file_of_that_name(tmp_path: Path) -> None:
    """`model.safetensors.sha256` beside `model.safetensors`."""
    assert read(tmp_path, w__model_bin_sha256=f"{A}\n") == {"w/model.bin": A}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"manifest_json": "{"}, "is not JSON"),
        (
            {"manifest_json": json.dumps({"files": {"a": {"sha256": "xyz"}}})},
            "promises of a what is no sha256",
        ),
        ({"SHA256SUMS": "hello\n"}, "line 1 is not"),
        ({"SHA256SUMS": f"{A}\n"}, "line 1 is not"),
        ({"SHA256SUMS": f"{A}  a\n{A[:-1]}  b\n"}, "line 2 is not"),
        (
            {"SHA256SUMS": f"{A}  a\n", "manifest_json": json.dumps({"a": B})},
            "promise different digests of a",
        ),
    ],
)
def test_what_cannot_be_understood_is_no_promise_kept(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    """A list that nobody can read must not look like one that was compared."""
    with pytest.raises(IntegrityError, match=f"^s3://b/x/.*{words}") as caught:
        read(tmp_path, **files)
    assert caught.value.advice


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """And what is read is a sha256."""
    folder = tmp_path_factory.mktemp("sums")
    (folder / "SHA256SUMS").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        promises = Promises.read(["SHA256SUMS"], lambda name: folder / name, "s3://b/x")
    except IntegrityError:
        return
    assert all(len(digest) == 64 for digest, _ in promises.of.values())


def test_a_promise_is_kept_by_its_digest_alone(tmp_path: Path) -> None:
    """Files that nobody speaks of are fine."""
    promises = Promises({"a": (A, "SHA256SUMS")})
    assert promises.kept("a", A)
    assert not promises.kept("a", B)
    assert promises.kept("other", B)
    promises.require_all("s3://b/x", ["a", "other"])
    with pytest.raises(IntegrityError, match="s3://b/x: a is missing, which SHA256SUMS names"):
        promises.require_all("s3://b/x", ["other"])
