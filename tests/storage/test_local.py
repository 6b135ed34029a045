"""Files on the local disk."""

import errno
import hashlib
import json
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import InputError, SpecError, TryAgain
from job.storage.local import (
    canonical_json,
    exclusive,
    local_path,
    place,
    private_folder,
    sha256_file,
    sha256_folder,
    sha256_json,
    write_atomic,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("output", "output"),
        ("/data/set 1", "/data/set 1"),
        ("a#b?c%20d", "a#b?c%20d"),
        ("file:///data/set%201", "/data/set 1"),
        ("file://localhost/data", "/data"),
        ("file:///data/set%231%3F", "/data/set#1?"),
        ("./my:data", "my:data"),
    ],
)
def test_plain_paths_are_taken_literally_and_file_uris_decoded(uri: str, path: str) -> None:
    """Only a URI has escapes: a plain path may hold any character."""
    assert local_path(uri) == Path(path)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Specs are written by people."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert local_path("~/data") == Path("/home/ada/data")


@pytest.mark.parametrize("uri", ["s3://bucket/key", "https://example.org/x", "file://data/set"])
def test_places_that_are_not_on_this_disk_are_refused(uri: str) -> None:
    """Another scheme, or a file URI with two slashes (whose first folder is a host), names no local path."""
    with pytest.raises(SpecError) as caught:
        local_path(uri)
    assert uri in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize("uri", ["file:///data/set#1", "file:///data/set?", "file:///data/set?version=2"])
def test_a_file_uri_is_never_cut_short(uri: str) -> None:
    """What follows # or ? is no part of a URI's path: another folder would be read without a word."""
    with pytest.raises(SpecError, match="before # or") as caught:
        local_path(uri)
    assert "%23" in caught.value.advice
    assert "%3F" in caught.value.advice


@pytest.mark.parametrize("uri", ["http://[bad", "file://[bad/x", "~nosuchuser-zq/x"])
def test_what_cannot_be_resolved_is_a_mistake_of_the_spec(uri: str) -> None:
    """A broken host, a user that there is not."""
    with pytest.raises(SpecError) as caught:
        local_path(uri)
    assert uri in str(caught.value)
    assert caught.value.advice


def test_a_name_with_a_colon_is_told_how_to_be_written() -> None:
    """It reads as a scheme; a real URI gets no such advice."""
    with pytest.raises(SpecError) as caught:
        local_path("my:data")
    assert "./my:data" in caught.value.advice
    with pytest.raises(SpecError) as caught:
        local_path("s3://bucket/key")
    assert "./" not in caught.value.advice


def test_a_write_makes_folders_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Text and bytes, over an old file."""
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "old")
    write_atomic(path, "né".encode())
    assert path.read_text(encoding="utf-8") == "né"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_worth_another_try_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC before the rename: exit code 10, the old content, no partial file."""
    path = tmp_path / "x"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(TryAgain, match="disk is full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    """The kernel's own answer, EFBIG: exit code 10, the file, and which limit to raise."""
    code = (
        "import resource, sys; from pathlib import Path; from job.storage.local import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_atomic(Path(sys.argv[1]), bytes(200))\n"
        "except Exception as error: print(type(error).__name__, error, error.advice)"
    )
    path = tmp_path / "large"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"TryAgain {path}: a file there became larger than this process may write")
    assert "ulimit -f" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_where_no_folder_can_be_made_is_no_defect() -> None:
    """As below /proc, where the system says that there is no such file."""
    with pytest.raises(InputError, match=r"/proc/nowhere: no folder can be made there"):
        write_atomic(Path("/proc/nowhere/a"), b"")


def test_another_error_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    """A folder in the way is a defect of the caller, not a full disk."""
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "x", "")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@given(JSON)
def test_canonical_json_is_json_of_the_same_value(value: object) -> None:
    """It parses back, and the order of keys does not show."""
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    """Recomputed from the definition; NaN has no canonical form and is refused."""
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_json({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        sha256_json(float("nan"))


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path: Path) -> None:
    """A changed byte or name shows; where the folder lies does not."""
    for name in ("one", "two"):
        write_atomic(tmp_path / name / "sub" / "a", "x")
        write_atomic(tmp_path / name / "b", "y")
    before = sha256_folder(tmp_path / "one")
    assert before == sha256_folder(tmp_path / "two")
    (tmp_path / "two" / "b").rename(tmp_path / "two" / "c")
    assert before != sha256_folder(tmp_path / "two")
    write_atomic(tmp_path / "one" / "b", "z")
    assert before != sha256_folder(tmp_path / "one")


def test_placing_copies_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits the copy in place leaves the stage's file as it is; a full disk is transient."""
    source, target = tmp_path / "source", tmp_path / "run" / "target"
    write_atomic(source, "result")
    write_atomic(target, "old")
    place(source, target)
    assert target.read_text() == "result"
    target.write_text("edited")
    assert source.read_text() == "result"
    monkeypatch.setattr("shutil.copyfile", no_space)
    with pytest.raises(TryAgain):
        place(source, target)


def hold(path: Path, pipe: Connection) -> None:
    with exclusive(path, "run x"):
        pipe.send("held")
        pipe.recv()


def test_one_process_holds_a_lock_until_it_ends_even_when_killed(tmp_path: Path) -> None:
    """The second is told what is held and where, by whom and for how long; SIGKILL lets go of it."""
    lock = tmp_path / "runs" / ".lock"
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(lock, theirs))
    process.start()
    try:
        assert ours.poll(20)
        holder = rf"run x is .*: {re.escape(platform.node())}, process {process.pid}, for \d+ s "
        with pytest.raises(TryAgain, match=holder) as caught, exclusive(lock, "run x"):
            pass
        assert str(lock) in str(caught.value)
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with exclusive(lock, "run x"):
        pass
    with exclusive(lock, "run x"):
        pass


def test_a_placed_copy_is_as_open_as_the_umask_says(tmp_path: Path) -> None:
    """A library may have made the original for its owner alone, or for everybody to write."""
    for mode in (0o600, 0o666):
        (tmp_path / "source").write_text("x")
        (tmp_path / "source").chmod(mode)
        place(tmp_path / "source", tmp_path / f"{mode}" / "target")
        (tmp_path / "as-usual").touch()
        usual = (tmp_path / "as-usual").stat().st_mode
        assert (tmp_path / f"{mode}" / "target").stat().st_mode == usual


def test_a_private_folder_is_its_owners_alone_unless_it_was_there(tmp_path: Path) -> None:
    """Folders above it are made as usual; one that is there may be shared on purpose."""
    private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)
    private_folder(tmp_path / "shared")
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755
