"""Archives from elsewhere: what is read of them, and what is refused."""

import hashlib
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import IntegrityError
from job.storage import tar_files
from job.storage.tar_files import copy_member, members


def tar_of(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT) -> Path:
    """Write an archive of files and of other members, under whatever names."""
    with tarfile.open(path, "w", format=kind) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                name, data = entry
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {member.path: member.file.read() for member in members(path, "a.tar")}


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_come_with_their_paths_and_bytes(tmp_path: Path, kind: int) -> None:
    """Folders are skipped, and the `./` that `tar -c .` writes is no part of a name; any format will do."""
    archive = tar_of(
        tmp_path / "a.tar",
        special(".", tarfile.DIRTYPE), special("./images", tarfile.DIRTYPE),
        ("./images/a.png", b"a" * 1000), ("images/" + "ä" * 40 + ".png", b""), ("b.png", b"b"),
        kind=kind,
    )  # fmt: skip
    assert contents(archive) == {
        "images/a.png": b"a" * 1000, "images/" + "ä" * 40 + ".png": b"", "b.png": b"b",
    }  # fmt: skip


def test_an_archive_of_nothing_holds_nothing(tmp_path: Path) -> None:
    """As `tar -cf x.tar -T /dev/null` writes it."""
    assert contents(tar_of(tmp_path / "a.tar")) == {}


@pytest.mark.parametrize(
    ("entries", "member"),
    [
        ([("/etc/passwd", b"x")], "/etc/passwd"),
        ([("../a", b"x")], "../a"),
        ([("a/../../b", b"x")], "a/../../b"),
        ([("a//b", b"x")], "a//b"),
        ([("a\\b", b"x")], "a\\\\b"),
        ([("a\nb", b"x")], "a\\nb"),
        ([("a" * 256, b"x")], "aaaa"),
        ([special("../up", tarfile.DIRTYPE)], "../up"),
        ([special("link", tarfile.SYMTYPE, "/etc/passwd")], "link"),
        ([("a", b"x"), special("hard", tarfile.LNKTYPE, "a")], "hard"),
        ([special("fifo", tarfile.FIFOTYPE)], "fifo"),
        ([special("disk", tarfile.BLKTYPE)], "disk"),
        ([special("tty", tarfile.CHRTYPE)], "tty"),
        ([special("new", b"Z")], "new"),
        ([("a", b"x"), ("a", b"y")], "a"),
        ([("a", b"x"), ("./a", b"y")], "./a"),
        ([("images/a", b"x"), ("Images/A", b"y")], "Images/A"),
        ([("a", b"x"), ("a/b", b"y")], "a/b"),
        ([("a/b", b"x"), ("a", b"y")], "a"),
        ([("a", b"x"), special("a", tarfile.DIRTYPE)], "a"),
    ],
)
@pytest.mark.parametrize("opinions", [2, 1])
def test_what_is_hostile_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list, member: str, opinions: int
) -> None:
    """The message names the archive and the member; Python before 3.11.4 has no second opinion of its own."""
    if opinions == 1:
        monkeypatch.delattr(tarfile, "data_filter")
    archive = tar_of(tmp_path / "x", *entries)
    with pytest.raises(IntegrityError) as caught:
        contents(archive)
    assert "a.tar: the member" in str(caught.value)
    assert member in str(caught.value)
    assert caught.value.advice


def test_names_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    """They would be other names on other machines."""
    archive = tar_of(tmp_path / "x", ("caf\udce9", b"x"), kind=tarfile.GNU_FORMAT)
    with pytest.raises(IntegrityError, match="cannot be a file"):
        contents(archive)


def test_a_member_may_not_claim_more_than_the_archive_has(tmp_path: Path) -> None:
    """A header of 512 bytes that claims a terabyte."""
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    path = tmp_path / "x"
    path.write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(IntegrityError, match="claim more bytes than the archive has"):
        contents(path)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    """A few more than allowed."""
    archive = tar_of(tmp_path / "x", *((f"{i}", b"") for i in range(11)))
    assert len([*members(archive, "a.tar", most=11)]) == 11
    with pytest.raises(IntegrityError, match="after 10 others"):
        list(members(archive, "a.tar", most=10))


@settings(deadline=None)
@given(st.data())
def test_an_archive_that_is_cut_or_damaged_is_never_read_as_a_smaller_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Wherever it is cut; and whichever byte of a header is another."""
    folder = tmp_path_factory.mktemp("tar")
    whole = tar_of(folder / "x", ("a", b"a" * 700), ("b/c", b"c" * 1500))
    bytes_of = whole.read_bytes()
    used = 512 + 1024 + 512 + 1536
    cut = data.draw(st.integers(0, used))
    (folder / "cut").write_bytes(bytes_of[:cut])
    with pytest.raises(IntegrityError):
        contents(folder / "cut")
    in_header = [*range(148), *range(156, 500)]  # all but the checksum, which may be spelt in several ways
    at = data.draw(st.sampled_from(in_header)) + data.draw(st.sampled_from([0, 1536]))
    other = bytearray(bytes_of)
    other[at] ^= data.draw(st.integers(1, 127))  # checksums of headers know no sign bit apart
    (folder / "bad").write_bytes(other)
    with pytest.raises(IntegrityError):
        contents(folder / "bad")


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), max_size=4))
def test_no_member_lands_outside_of_its_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """Whatever the names: what is yielded is below the folder, as it is spelt; the rest is refused."""
    folder = tmp_path_factory.mktemp("tar")
    archive = tar_of(folder / "x", *((name, b"x") for name in names))
    try:
        found = contents(archive)
    except IntegrityError:
        return
    for path in found:
        assert (folder / "out" / path).resolve().is_relative_to((folder / "out").resolve())
        assert path in {name.removeprefix("./").rstrip("/") for name in names}


def test_compressed_archives_are_told_apart_from_damaged_ones(tmp_path: Path) -> None:
    """The advice says how to write one."""
    with tarfile.open(tmp_path / "x", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    with pytest.raises(IntegrityError, match="no uncompressed tar") as caught:
        contents(tmp_path / "x")
    assert "without compression" in caught.value.advice


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A member of 64 MB passes through in pieces, and thousands of members are not remembered as headers."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(64 << 20)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "big", "big")
    tracemalloc.start()
    (member,) = ((m.path, copy_member(m, tmp_path / "out")) for m in members(tmp_path / "x.tar", "a.tar"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert member == ("big", hashlib.sha256(bytes(64 << 20)).hexdigest())
    assert peak < 8 << 20


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A long name, which is read at once, of 32 MiB."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 32 << 20
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(40 << 20)
    with pytest.raises(IntegrityError, match="no uncompressed tar"):
        contents(path)


def test_members_are_copied_with_their_digest(tmp_path: Path) -> None:
    """To a new file: what is there is never written over."""
    archive = tar_of(tmp_path / "x", ("a", b"abc"))
    for member in members(archive, "a.tar"):
        assert copy_member(member, tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
        with pytest.raises(FileExistsError):
            copy_member(member, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert tar_files.MOST_MEMBERS >= 100_000
