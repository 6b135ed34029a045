"""Folders that show cached content: complete or not, in use or not."""

import fcntl
import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from job.storage import views as views_module
from job.storage.object_cache import Content, ObjectCache
from job.storage.views import View, Views


class Waited(Exception):
    """Somebody would have had to wait."""


def wait() -> None:
    raise Waited


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path)


def filled(cache: ObjectCache, views: Views, digest: str, **files: bytes) -> View:
    """Build a view as a fetch does."""
    view = views.open(digest, wait)
    with view.building(wait):
        for name, data in files.items():
            loose = cache.root / "loose"
            loose.write_bytes(data)
            cache.admit(loose, Content(sha256(data).hexdigest(), len(data)), view.folder / name)
        view.finish("s3://b/x", {name: sha256(data).hexdigest() for name, data in files.items()})
    return view


def test_a_view_is_complete_once_it_is_finished(cache: ObjectCache, tmp_path: Path) -> None:
    """Not while it is filled, nor with a record that cannot be read."""
    views = Views(tmp_path / "inputs")
    assert not views.open("a", wait).is_complete()
    view = filled(cache, views, "a", one=b"1", two=b"2")
    assert view.is_complete()
    assert set(view.files()) == {"one", "two"}
    for broken in ("", "{", "[]", '{"files": 3}', '{"files": {"one": [1]}}'):
        view.record.write_text(broken)
        assert not view.is_complete()


def flip(path: Path) -> None:
    """Change a byte and nothing else: size, time and inode are as before."""
    data, found = bytearray(path.read_bytes()), path.stat()
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(found.st_mode)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_content_that_rotted_is_noticed_wherever_it_is_shown(
    cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders up to a size are read whole; what was found out there is known of larger ones too."""
    views = Views(tmp_path / "inputs")
    view = filled(cache, views, "a", one=b"1", two=b"2")
    other = filled(cache, views, "b", own=b"2" * 10, two=b"2")
    flip(view.folder / "two")
    monkeypatch.setattr(views_module, "READ_BYTES", 5)
    assert other.is_complete()
    assert not view.is_complete()
    assert not other.is_complete()
    assert not cache.show(Content(sha256(b"2").hexdigest(), 1), view.folder / "two")


def test_a_record_of_an_earlier_version_is_none(cache: ObjectCache, tmp_path: Path) -> None:
    """It has no digests: the folder is filled again from what is here."""
    view = filled(cache, Views(tmp_path / "inputs"), "a", one=b"1")
    found = (view.folder / "one").stat()
    view.record.write_text(json.dumps({"files": {"one": [found.st_size, found.st_ino]}}))
    assert not view.is_complete()


def test_a_use_is_remembered(cache: ObjectCache, tmp_path: Path) -> None:
    """The record's time tells which folder was not used for the longest time."""
    view = filled(cache, Views(tmp_path / "inputs"), "a", one=b"1")
    os.utime(view.record, (1, 1))
    assert view.is_complete()
    assert view.record.stat().st_mtime > 1e9


def test_one_process_fills_a_view_at_a_time(tmp_path: Path) -> None:
    """Others wait, and may be stopped while they do."""
    one, other = Views(tmp_path / "inputs"), Views(tmp_path / "inputs")
    view = one.open("a", wait)
    with view.building(wait), pytest.raises(Waited), other.open("a", wait).building(wait):
        pass
    with other.open("a", wait).building(wait):
        pass


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that removes a view removes its locks: who waited for one takes the new one."""
    real, removed = fcntl.flock, []

    def flock(descriptor: int, kind: int) -> None:
        real(descriptor, kind)
        if not removed:
            removed.append((tmp_path / "inputs" / "a.use").unlink())

    monkeypatch.setattr(fcntl, "flock", flock)
    waits: list[int] = []
    Views(tmp_path / "inputs").open("a", lambda: waits.append(1))
    assert waits == [1]
    assert (tmp_path / "inputs" / "a.use").exists()


def test_views_go_by_last_use_until_there_is_room(cache: ObjectCache, tmp_path: Path) -> None:
    """Those in use stay; their locks end with whoever opened them."""
    kept, gone = Views(tmp_path / "inputs"), Views(tmp_path / "inputs")
    made = [filled(cache, kept if name == "b" else gone, name, x=name.encode() * 100) for name in "abcd"]
    for age, view in enumerate(made):
        os.utime(view.record, (1e9 + age, 1e9 + age))
    gone.close()
    Views(tmp_path / "inputs").make_room(cache, 100, 300)
    assert [view.folder.name for view in made if view.folder.exists()] == ["b", "d"]
    Views(tmp_path / "inputs").make_room(cache, 300, 300)
    assert [view.folder.name for view in made if view.folder.exists()] == ["b"]
    kept.close()
    Views(tmp_path / "inputs").make_room(cache, 300, 300)
    assert not [*(tmp_path / "inputs").iterdir()]
    assert cache.unshown() == (0, [])
