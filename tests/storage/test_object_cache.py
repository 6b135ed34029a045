"""Content by digest, and the index of what objects hold."""

import errno
import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from job.storage import object_cache
from job.storage.object_cache import SEALED_NS, Content, Index, Known, ObjectCache, seal
from job.storage.store import Stat


def stat(key: str, etag: str = "e", size: int = 1) -> Stat:
    return Stat(key, size, etag, 0.0)


def content(data: bytes) -> Content:
    return Content(sha256(data).hexdigest(), len(data))


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache")


def admitted(cache: ObjectCache, data: bytes, target: Path) -> Content:
    file = cache.root / "partial" / "x"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    cache.admit(file, content(data), target)
    assert not file.exists()
    return content(data)


def test_content_is_shown_wherever_it_is_wanted(cache: ObjectCache, tmp_path: Path) -> None:
    """As links to one file, in place of whatever is there."""
    a = admitted(cache, b"a", tmp_path / "one" / "a")
    (tmp_path / "b").write_text("old")
    assert cache.show(a, tmp_path / "b")
    assert admitted(cache, b"a", tmp_path / "c") == a
    assert {(tmp_path / name).stat().st_ino for name in ("one/a", "b", "c")} == {
        (tmp_path / "b").stat().st_ino
    }
    assert (tmp_path / "b").stat().st_nlink == 4
    assert not cache.show(content(b"never"), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_content_that_was_written_to_is_shown_no_more(cache: ObjectCache, tmp_path: Path) -> None:
    """Nor does it stand in the way of good content."""
    a = admitted(cache, b"a", tmp_path / "a")
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "a").write_bytes(b"b")
    assert not cache.show(a, tmp_path / "b")
    admitted(cache, b"a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"
    assert cache.show(a, tmp_path / "a")


def test_content_is_sealed_after_it_was_flushed(
    cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time says so to every later run: it is not given before, nor after a flush that failed."""
    admitted(cache, b"a", tmp_path / "a")
    assert (tmp_path / "a").stat().st_mtime_ns != SEALED_NS
    seen: list[bool] = []
    fsync = os.fsync

    def fail(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def noted(file: int) -> None:
        fsync(file)
        seen.append(os.fstat(file).st_mtime_ns == SEALED_NS)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        seal(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mtime_ns != SEALED_NS
    monkeypatch.setattr(os, "fsync", noted)
    seal(tmp_path / "a")
    assert seen == [False]
    assert (tmp_path / "a").stat().st_mtime_ns == SEALED_NS
    seal(tmp_path / "a")
    assert seen == [False]


def test_content_that_was_not_flushed_is_read_before_it_is_shown(cache: ObjectCache, tmp_path: Path) -> None:
    """The power was cut before the disk had it: size and name are there, bytes are not."""
    whole, torn = admitted(cache, b"whole", tmp_path / "a"), admitted(cache, b"torn", tmp_path / "b")
    (tmp_path / "b").chmod(0o644)
    (tmp_path / "b").write_bytes(bytes(4))
    assert cache.show(whole, tmp_path / "c")
    assert (tmp_path / "c").stat().st_mtime_ns == SEALED_NS
    assert not cache.show(torn, tmp_path / "d")


def test_a_download_of_before_the_last_boot_is_not_taken_up(
    cache: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole as it looks, it may be torn: each boot has places of its own."""
    here = cache.target("s3://b/x", stat("a"))
    assert cache.target("s3://b/x", stat("a")) == here
    monkeypatch.setattr(object_cache, "boot_id", lambda: "another")
    assert cache.target("s3://b/x", stat("a")) != here


def test_a_disk_without_links_gets_copies(
    cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As does content with more links than the file system allows."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    a = admitted(cache, b"a", tmp_path / "a")
    assert cache.show(a, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"a"


def test_content_that_nobody_shows_is_told_apart(cache: ObjectCache, tmp_path: Path) -> None:
    """It is what may be removed."""
    admitted(cache, b"a", tmp_path / "a")
    b = admitted(cache, b"bb", tmp_path / "b")
    assert cache.unshown() == (3, [])
    (tmp_path / "b").unlink()
    total, loose = cache.unshown()
    assert (total, [(path.name, size) for path, size in loose]) == (3, [(b.sha256, 2)])


def test_downloads_that_nobody_goes_on_with_are_removed(cache: ObjectCache) -> None:
    """After a week, whatever time of modification a file was given when it was sealed."""
    path = cache.root / "partial" / "x"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    seal(path)
    cache.remove_stale_downloads(time.time() + 6 * 86_400)
    assert path.exists()
    cache.remove_stale_downloads(time.time() + 8 * 86_400)
    assert not path.exists()


def test_the_index_knows_an_object_in_the_version_it_was_here(cache: ObjectCache) -> None:
    """By key, etag and size, over processes; a newer version takes its place."""
    index = cache.index("s3://b/x")
    a, shard = Known(content(b"a")), Known(content(b"tar"), {"m/1": content(b"1"), "m/2": content(b"2")})
    index.put(stat("a"), a)
    index.put(stat("t", size=3), shard)
    for one in (index, cache.index("s3://b/x")):
        assert one.get(stat("a")) == a
        assert one.get(stat("t", size=3)) == shard
        assert one.get(stat("a", etag="other")) is one.get(stat("a", size=2)) is one.get(stat("b")) is None
    assert cache.index("s3://b/y").get(stat("a")) is None
    index.put(stat("a", etag="new"), a)
    assert cache.index("s3://b/x").get(stat("a")) is None
    index.drop(stat("a", etag="new"))
    assert cache.index("s3://b/x").get(stat("a", etag="new")) is None


@pytest.mark.parametrize("rest", ['{"key": "b", "et', "[]", "\x00", '{"etag": 1}', '{"key": 1, "etag": []}'])
def test_a_broken_line_costs_that_line(cache: ObjectCache, rest: str) -> None:
    """A process was killed while it wrote."""
    index = cache.index("s3://b/x")
    index.put(stat("a"), Known(content(b"a")))
    with index.path.open("a") as file:
        file.write("\n" + rest)
    cache.index("s3://b/x").put(stat("c"), Known(content(b"c")))
    again = cache.index("s3://b/x")
    assert again.get(stat("a")) == Known(content(b"a"))
    assert again.get(stat("c")) == Known(content(b"c"))


def test_the_index_does_not_grow_for_ever(cache: ObjectCache) -> None:
    """What is outdated is left out once it is most of the file."""
    index = cache.index("s3://b/x")
    for i in range(300):
        index.put(stat("a", etag=str(i)), Known(content(b"a")))
    before = index.path.stat().st_size
    assert Index.load(index.path).get(stat("a", etag="299")) == Known(content(b"a"))
    assert index.path.stat().st_size < before / 100
    assert cache.index("s3://b/x").get(stat("a", etag="299")) == Known(content(b"a"))
