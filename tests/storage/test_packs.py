"""Many small files as one object."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import IntegrityError
from job.storage import packs
from job.storage.local import sha256_file
from job.storage.packs import DIGESTS, Unsteady, pack, snapshot, staging, unpack_snapshot, versions
from job.storage.tar_files import unpack


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FILES = {"a": b"", "deep/er/b": b"x" * 1500, "ünï" * 40: b"long name, not ASCII"}


@given(
    st.dictionaries(
        st.text(st.characters(categories=("L", "N")), min_size=1, max_size=40).map(str.casefold),
        st.binary(max_size=2000),
        max_size=5,
    )
)
def test_what_is_packed_comes_out(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    """Names, contents and digests, whatever they are."""
    place = tmp_path_factory.mktemp("packs")
    packed = pack(filled(place / "in", files), files, place / "x.tar")
    digests = unpack(place / "x.tar", place / "out", "x.tar")
    assert contents(place / "out") == files
    assert digests == {name: one.sha256 for name, one in packed.items()}


def test_equal_files_are_equal_bytes(tmp_path: Path) -> None:
    """Whoever wrote them, whenever, in whatever order: a pack can be named by its content."""
    names = list(FILES)
    for number, order in enumerate((names, names[::-1])):
        folder = filled(tmp_path / str(number), {name: FILES[name] for name in order})
        (folder / "a").chmod(0o600 + number)
        pack(folder, order, tmp_path / f"{number}.tar")
    assert sha256_file(tmp_path / "0.tar") == sha256_file(tmp_path / "1.tar")


def test_files_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """Somebody works in the folder meanwhile."""
    assert set(pack(filled(tmp_path / "in", FILES), [*FILES, "gone"], tmp_path / "x.tar")) == set(FILES)


def test_unfinished_files_do_not_count(tmp_path: Path) -> None:
    """They are renamed once they are whole; other hidden files are files."""
    filled(tmp_path, {".a.123.tmp": b"half", ".hidden": b"", "b.tmp": b""})
    assert set(versions(tmp_path)) == {".hidden", "b.tmp"}
    assert versions(tmp_path / "nothing") == {}


class Meddler:
    """Does something to a folder whenever its files are listed a second time, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deeds: Iterator[object]) -> None:
        self.listings = 0
        real = packs.versions

        def listed(folder: Path) -> dict[str, packs.Version]:
            self.listings += 1
            if self.listings % 2 == 0:
                next(deeds, None)
            return real(folder)

        monkeypatch.setattr(packs, "versions", listed)


def test_a_snapshot_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes while others are read has all of them read again."""
    folder = filled(tmp_path / "in", {"history": b"1", "state": b"1"})

    def deeds() -> Iterator[None]:
        (folder / "history").write_bytes(b"1 2")
        yield
        (folder / "state").write_bytes(b"two")
        yield

    meddler = Meddler(monkeypatch, deeds())
    taken = snapshot(folder, tmp_path / "x.tar")
    assert meddler.listings == 6
    assert taken == versions(folder)
    unpack_snapshot(tmp_path / "x.tar", tmp_path / "out", "x.tar")
    assert contents(tmp_path / "out") == {"history": b"1 2", "state": b"two"}


def test_files_that_never_hold_still_make_no_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better the last one than one of many moments."""
    folder = filled(tmp_path / "in", {"a": b""})

    def deeds() -> Iterator[None]:
        while True:
            (folder / "a").write_bytes((folder / "a").read_bytes() + b"x")
            yield

    Meddler(monkeypatch, deeds())
    assert snapshot(folder, tmp_path / "x.tar", attempts=3) is None


def test_a_file_that_shrinks_is_not_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with zeros nor with what follows it."""
    folder = filled(tmp_path / "in", {"a": b"12345"})
    monkeypatch.setattr(packs, "_header", lambda name, size, real=packs._header: real(name, size + 1))
    with pytest.raises(Unsteady):
        pack(folder, ["a"], tmp_path / "x.tar")
    assert snapshot(folder, tmp_path / "x.tar") is None


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "no digests", "no JSON"])
def test_a_snapshot_vouches_for_itself(tmp_path: Path, damage: str) -> None:
    """A scratch folder has no other record of what it should hold."""
    files = {"a": b"one", "b": b"two"}
    snapshot(filled(tmp_path / "in", files), tmp_path / "x.tar")
    unpack(tmp_path / "x.tar", tmp_path / "raw", "x.tar")
    members = contents(tmp_path / "raw")
    match damage:
        case "changed":
            members["a"] = b"ONE"
        case "missing":
            del members["b"]
        case "more":
            members["c"] = b""
        case "no digests":
            del members[DIGESTS]
        case "no JSON":
            members[DIGESTS] = b"{"
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(IntegrityError, match=r"y\.tar"):
        unpack_snapshot(tmp_path / "y.tar", tmp_path / "out", "y.tar")


def test_what_killed_processes_left_is_removed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is at work keeps its folder; yesterday's goes."""
    with staging(tmp_path / "x") as at_work:
        (at_work / "file").write_text("")
        with staging(tmp_path / "x"):
            assert at_work.exists()
        monkeypatch.setattr(packs, "_LEFT_AFTER_S", -60.0)
        with staging(tmp_path / "x") as other:
            assert not at_work.exists()
            assert other.parent == tmp_path
        at_work.mkdir()
    assert list(tmp_path.iterdir()) == []
