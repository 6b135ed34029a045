"""Folders of a store on this machine: listed, downloaded once, shown whole."""

import errno
import io
import json
import os
import shutil
import tarfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.errors import InputError, IntegrityError, Missing, TryAgain
from job.progress import SILENT
from job.storage import fetch, object_cache, view_building, views
from job.storage.background import Background
from job.storage.checksums import promises_digests
from job.storage.fetch import Fetcher, Listing, listing, listing_of_file
from job.storage.flushing import Flushing
from job.storage.local_store import LocalStore
from job.storage.store import Advance, Changed, Download, Landed, Stat
from job.storage.uris import open_store

GB = 10**9


class Log:
    """Keeps events as they come."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    warning = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Cut(Exception):
    """Stands for a connection that breaks, or a process that is killed."""


@dataclass(frozen=True)
class Counting:
    """A store that counts what is downloaded and may break off after some objects."""

    store: LocalStore
    downloads: Counter[str]
    most: int = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def bring(self, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background) -> None:
        for item in items:
            if self.downloads.total() >= self.most:
                raise Cut
            self.downloads[item.source.key] += 1
            self.store.bring([item], advance, landed, digests)


@dataclass
class World:
    """A dataset in a store, and a cache that is empty."""

    root: Path
    cache: Path
    log: Log

    @property
    def data(self) -> Path:
        return self.root / "data"

    def put(self, files: Mapping[str, bytes], folder: str = "data") -> None:
        for name, content in files.items():
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def listing(self, folder: str = "data", *, most: int = 10**9, unpack: bool = True) -> Listing:
        found = listing(str(self.root / folder), unpack=unpack)
        return replace(found, store=Counting(found.store, Counter(), most))

    def fetcher(self, max_bytes: int = GB) -> Fetcher:
        return Fetcher(self.cache, max_bytes, SILENT, self.log)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "store", tmp_path / "cache", Log())
    world.put({"annotations.json": b"[]", "images/a.png": b"aaa", "images/b.png": b"bb", "masks/a.png": b"m"})
    return world


def downloads(found: Listing) -> Counter[str]:
    return found.store.downloads


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def blobs(cache: Path) -> set[str]:
    return {path.name for path in (cache / "objects").glob("*/*")}


def tar_bytes(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


# Listing


def test_a_listing_is_known_by_keys_sizes_and_versions(world: World) -> None:
    """Its digest needs no download, and is another one whenever a name, a size or a version is another."""
    found = world.listing()
    assert [one.key for one in found.objects] == sorted(files_of(world.data))
    assert found.total_bytes == 2 + 3 + 2 + 1
    digests = {found.digest, found.digest}
    one = found.objects[0]
    for change in ({"key": "x"}, {"size": 9}, {"etag": "other"}):
        digests.add(replace(found, objects=(replace(one, **change), *found.objects[1:])).digest)
    digests.add(replace(found, objects=found.objects[1:]).digest)
    assert len(digests) == 5
    assert replace(found, objects=(replace(one, modified=0.0), *found.objects[1:])).digest == found.digest
    assert not downloads(found)


def test_archives_count_as_what_is_made_of_them(world: World) -> None:
    """A folder whose shards are unpacked is another one than the folder with the shards."""
    assert world.listing(unpack=True).digest == world.listing(unpack=False).digest
    world.put({"x.tar": tar_bytes({"c": b"c"})})
    assert world.listing(unpack=True).digest != world.listing(unpack=False).digest


def test_what_is_not_there_is_answered_with_what_is(world: World) -> None:
    """A typing error is the usual reason."""
    with pytest.raises(Missing, match="dat: there is nothing") as caught:
        listing(str(world.root / "dat"))
    assert "has data" in caught.value.advice
    with pytest.raises(Missing, match="is an object, not a folder"):
        listing(str(world.data / "images" / "a.png"))
    with pytest.raises(Missing, match=r"c\.png: there is nothing") as caught:
        listing_of_file(str(world.data / "images" / "c.png"))
    assert "a.png" in caught.value.advice


def of_keys(monkeypatch: pytest.MonkeyPatch, *stats: Stat) -> None:
    store = SimpleNamespace(
        uri="s3://bucket/data", entries=lambda prefix="": iter(stats), stat=lambda key: None
    )
    monkeypatch.setattr(fetch, "open_store", lambda uri: store)


def test_markers_of_folders_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles write empty objects that end in a slash, the folder's own among them."""
    of_keys(monkeypatch, Stat("", 0, "e", 0), Stat("a/", 0, "e", 0), Stat("a/b", 0, "e", 0))
    assert [one.key for one in listing("s3://bucket/data").objects] == ["a/b"]


@pytest.mark.parametrize(
    "key", ["../a", "/a", "a/../b", "a//b", "a\x00b", "a\\b", "./a", "a/.", "a/", "a\n", "a" * 256, "\udce9"]
)
def test_hostile_keys_are_refused_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """No key is repaired."""
    of_keys(monkeypatch, Stat("fine", 1, "e", 0), Stat(key, 1, "e", 0))
    with pytest.raises(IntegrityError, match="cannot be the path of a file"):
        listing("s3://bucket/data")


@settings(deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=30))
def test_no_key_leaves_its_folder(key: str) -> None:
    """Whatever the key: it is refused, or its file is below the folder under that very name."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        of_keys(monkeypatch, Stat(key, 1, "e", 0))
        try:
            (found,) = listing("s3://bucket/data").objects
        except IntegrityError:
            return
    path = os.path.normpath(os.path.join("/root/of/it", found.key))  # noqa: PTH118 (what is tested is the text)
    assert path == f"/root/of/it/{key}"


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".TAR.XZ", ".tar.zst"])
def test_compressed_shards_are_refused_with_advice(world: World, ending: str) -> None:
    """As a dataset's; beside a checkpoint they are files like others."""
    world.put({f"shards/1{ending}": b"x"})
    with pytest.raises(InputError, match="compressed archives are not unpacked") as caught:
        listing(str(world.data), unpack=True)
    assert "tar -cf" in caught.value.advice
    assert listing(str(world.data)).objects


# Fetching


def test_a_folder_is_brought_whole_and_only_once(world: World) -> None:
    """Named by the listing; the same listing again downloads nothing, in another process too."""
    first = world.listing()
    folder = world.fetcher().folder(first)
    assert folder == world.cache / "inputs" / first.digest
    assert files_of(folder) == files_of(world.data)
    assert set(downloads(first)) == set(files_of(world.data))
    (event,) = world.log.of("pull.fetched")
    assert event == {
        "uri": str(world.data), "files": 4, "bytes": 8, "downloaded_files": 4, "downloaded_bytes": 8,
    }  # fmt: skip
    again = world.listing()
    fetcher = world.fetcher()
    assert fetcher.folder(again) == fetcher.folder(again) == folder
    assert not downloads(again)
    assert [e["downloaded_files"] for e in world.log.of("pull.fetched")] == [4, 0]
    assert [*(world.cache / "partial").iterdir()] == []


def test_a_dataset_that_grows_fetches_what_is_new(world: World) -> None:
    """The old folder stays what it was; equal content lies on the disk once."""
    old = world.fetcher().folder(world.listing())
    before = files_of(old)
    world.put({"images/c.png": b"new", "images/d.png": b"aaa"})
    (world.data / "images" / "b.png").unlink()
    grown = world.listing()
    new = world.fetcher().folder(grown)
    assert set(downloads(grown)) == {"images/c.png", "images/d.png"}
    assert files_of(new) == files_of(world.data)
    assert files_of(old) == before
    assert (new / "images/d.png").samefile(old / "images/a.png")
    assert blobs(world.cache) == {sha256(one).hexdigest() for one in (b"[]", b"aaa", b"bb", b"m", b"new")}


def test_two_datasets_share_equal_files(world: World) -> None:
    """By content, whatever their names."""
    world.put({"other.png": b"aaa", "own": b"own"}, "more")
    one, two = (world.fetcher().folder(world.listing(name)) for name in ("data", "more"))
    assert (one / "images/a.png").samefile(two / "other.png")


def test_a_single_object_is_a_file(world: World) -> None:
    """A reward network that is no run's."""
    found = listing_of_file(str(world.data / "images" / "a.png"))
    assert world.fetcher().file(found).read_bytes() == b"aaa"
    assert found.again().digest == found.digest


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_a_cut_costs_only_what_was_not_here_yet(world: World, most: int) -> None:
    """Nothing looks finished meanwhile, and the next attempt fetches the rest alone, be there more or not."""
    first = world.listing(most=most)
    with pytest.raises(Cut):
        world.fetcher().folder(first)
    assert not [*(world.cache / "inputs").glob("*.json")]
    world.put({"images/z.png": b"late"})
    second = world.listing()
    folder = world.fetcher().folder(second)
    assert downloads(first).total() == most
    assert downloads(first) + downloads(second) == Counter([*files_of(world.data)])
    assert files_of(folder) == files_of(world.data)


@pytest.mark.parametrize("step", ["chmod", "_link", "replace"])
def test_a_kill_while_a_file_is_moved_into_the_cache_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever step was the last one: the next attempt takes the file up where it lies."""
    owner = object_cache if step == "_link" else Path
    real = getattr(owner, step)
    first = world.listing()
    calls = iter(range(2))

    def last(*arguments: Any) -> Any:
        answer = real(*arguments)
        is_ours = step != "replace" or arguments[-1].parent.name != "partial"  # the store renames there too
        if arguments[0].parent.name == "partial" and is_ours and next(calls, None) is None:
            raise Cut
        return answer

    monkeypatch.setattr(owner, step, last)
    with pytest.raises(Cut):
        world.fetcher().folder(first)
    monkeypatch.undo()
    second = world.listing()
    assert files_of(world.fetcher().folder(second)) == files_of(world.data)
    assert downloads(first) + downloads(second) == Counter([*files_of(world.data)])
    assert not [*(world.cache / "partial").iterdir()]


@pytest.mark.parametrize("read_bytes", [0, GB])
def test_nothing_that_a_power_cut_tore_is_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    """Files that had not been flushed have their names and sizes, and zeros: they alone are fetched again."""
    for module in (view_building, views):
        monkeypatch.setattr(module, "READ_BYTES", read_bytes)
    world.put({"1.tar": tar_bytes({"member": b"member"})})
    monkeypatch.setattr(Flushing, "add", lambda self, files: None)  # the power was cut before
    folder = world.fetcher().folder(world.listing())
    for torn in ("images/a.png", "member"):
        path = folder / torn
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
    monkeypatch.undo()
    again = world.listing()
    assert world.fetcher().folder(again) == folder
    assert files_of(folder)["images/a.png"] == b"aaa"
    assert files_of(folder)["member"] == b"member"
    assert set(downloads(again)) == {"images/a.png", "1.tar"}


def test_what_is_flushed_need_not_be_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders above a size are known by the time that their files were given when the disk had them."""
    for module in (view_building, views):
        monkeypatch.setattr(module, "READ_BYTES", 0)
    fetcher = world.fetcher()
    folder = fetcher.folder(world.listing())
    fetcher.settle()
    assert {p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == {object_cache.SEALED_NS}
    monkeypatch.setattr(views, "sha256_file", lambda path: pytest.fail(f"{path} is read"))
    again = world.listing()
    assert world.fetcher().folder(again) == folder
    assert not downloads(again)


def test_a_disk_that_fails_is_told_before_anything_is_made_of_its_content(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever keeps what was made of it."""

    def fail(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fetcher = world.fetcher()
    monkeypatch.setattr(os, "fsync", fail)
    fetcher.folder(world.listing())
    with pytest.raises(TryAgain, match="could not keep what was downloaded"):
        fetcher.settle()


def test_files_are_read_only(world: World) -> None:
    """They are shared: to write to one would change every dataset that has it."""
    folder = world.fetcher().folder(world.listing())
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o444}


def _rewrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"bad")


def _replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"aaa"[::-1])


def _swap(path: Path) -> None:
    path.unlink()
    path.hardlink_to(path.parent / "b.png")


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("b.png")


def _rot(path: Path) -> None:
    found = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"aab")
    path.chmod(found.st_mode)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("damage", [_rewrite, _replace, Path.unlink, _swap, _link, _rot])
def test_an_edited_file_is_never_taken_for_what_was_fetched(world: World, damage: Any) -> None:
    """Written to, replaced, removed, exchanged: the next fetch makes it good wherever it is shown."""
    world.put({"own": b"aaa"}, "more")
    folder = world.fetcher().folder(world.listing())
    more = world.fetcher().folder(world.listing("more"))
    damage(folder / "images/a.png")
    for name, place in (("data", folder), ("more", more)):
        found = world.listing(name)
        assert world.fetcher().folder(found) == place
        assert files_of(place) == files_of(world.root / name)
        assert set(downloads(found)) <= {"images/a.png"}
    assert all(sha256(p.read_bytes()).hexdigest() == p.name for p in (world.cache / "objects").glob("*/*"))


def test_rotten_content_enters_no_new_folder(world: World) -> None:
    """A dataset that grew is filled with what is here: read, not believed. So is equal content elsewhere."""
    folder = world.fetcher().folder(world.listing())
    _rot(folder / "images/a.png")
    world.put({"images/c.png": b"c"})
    grown = world.listing()
    assert files_of(world.fetcher().folder(grown)) == files_of(world.data)
    assert set(downloads(grown)) == {"images/a.png", "images/c.png"}
    _rot(world.fetcher().folder(world.listing()) / "images/a.png")
    world.put({"own": b"aaa"}, "more")
    assert files_of(world.fetcher().folder(world.listing("more"))) == {"own": b"aaa"}


def test_a_file_that_was_added_is_removed(world: World) -> None:
    """What a dataset folder has more than its store would be trained on."""
    folder = world.fetcher().folder(world.listing())
    (folder / "images/extra.png").write_bytes(b"x")
    again = world.listing()
    assert files_of(world.fetcher().folder(again)) == files_of(world.data)
    assert not downloads(again)


def test_a_touched_file_is_read_and_kept(world: World) -> None:
    """Another time and the same content is no reason to download."""
    folder = world.fetcher().folder(world.listing())
    os.utime(folder / "images/a.png")
    again = world.listing()
    assert files_of(world.fetcher().folder(again)) == files_of(world.data)
    assert not downloads(again)


def test_an_object_that_is_another_one_by_now_is_not_passed_off_as_the_listed(world: World) -> None:
    """The run is named for what was listed: it is to be started again."""
    found = world.listing()
    (world.data / "images/b.png").write_bytes(b"changed")
    with pytest.raises(TryAgain, match=r"images/b\.png changed while it was being downloaded"):
        world.fetcher().folder(found)
    after = world.listing()
    assert files_of(world.fetcher().folder(after)) == files_of(world.data)


def test_a_change_that_was_none_is_tried_once_more(world: World) -> None:
    """The listing is asked for again; equal, the download goes on."""
    found = world.listing()
    store = found.store
    failures = [Changed("images/a.png")]

    class Flaky(Counting):
        def bring(self, items: Sequence[Download], *how: Any) -> None:
            if failures:
                raise failures.pop()
            super().bring(items, *how)

    flaky = replace(found, store=Flaky(store.store, Counter()))
    assert files_of(world.fetcher().folder(flaky)) == files_of(world.data)
    failures += [Changed("x"), Changed("x")]
    shutil.rmtree(world.cache)
    with pytest.raises(TryAgain, match="x changed"):
        world.fetcher().folder(flaky)


def test_a_disk_without_room_is_found_out_before_the_first_byte(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed and what there is; a beginning that lies there already is not needed again."""
    free = {"bytes": 4}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    found = world.listing()
    with pytest.raises(
        TryAgain, match=r"0\.0 MB are to be downloaded, and the disk of .* has 0\.0 MB free"
    ) as caught:
        world.fetcher().folder(found)
    assert "cache.uri" in caught.value.advice
    assert not downloads(found)
    free["bytes"] = 9  # 8 bytes and 5 % of slack
    assert world.fetcher().folder(found)


def test_shards_need_room_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the archive and for what is in it."""
    world.put({"1.tar": tar_bytes({"a": b"a"})}, "shards")
    found = world.listing("shards")
    size = found.total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(size * 2.0)))
    with pytest.raises(TryAgain, match="are to be downloaded"):
        world.fetcher().folder(found)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(size * 2.2)))
    assert world.fetcher().folder(found)


def test_begun_downloads_are_not_needed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of which most is here may go on, though the disk could not hold it twice."""
    world.put({"big": bytes(1 << 20)}, "big")
    found = world.listing("big")
    target = fetch.ObjectCache(world.cache).target(found.store.uri, found.objects[0])
    target.parent.mkdir(parents=True)
    target.with_name(f".{target.name}.tmp").write_bytes(b"x" * 900_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=300_000))
    assert world.fetcher().folder(found)


# The bound of the cache


def fill(world: World, *names: str, size: int = 1000, max_bytes: int = GB) -> dict[str, Path]:
    """Fetch datasets of one file each by a process that has ended since, the first named long ago."""
    folders = {}
    for age, name in enumerate(reversed(names)):
        world.put({name: name.encode() * (size // len(name))}, name)
        found = world.listing(name)
        fetcher = world.fetcher(max_bytes)
        folders[name] = fetcher.folder(found)
        fetcher.close()
        os.utime(world.cache / "inputs" / f"{found.digest}.json", (1e9 - age, 1e9 - age))
    return folders


def test_what_was_not_used_for_the_longest_time_goes_first(world: World) -> None:
    """Until old and new fit the bound; what was used last stays."""
    folders = fill(world, "a", "b", "c")
    used = world.fetcher(3500)
    used.folder(world.listing("a"))
    used.close()
    world.put({"d": b"d" * 1500}, "d")
    new = world.fetcher(3500).folder(world.listing("d"))
    assert [name for name, folder in folders.items() if folder.exists()] == ["a"]
    assert files_of(new) == {"d": b"d" * 1500}
    assert len(blobs(world.cache)) == 2
    assert {path.name.split(".")[0] for path in (world.cache / "inputs").iterdir()} == {
        folders["a"].name, new.name,
    }  # fmt: skip


def test_what_is_in_use_stays(world: World) -> None:
    """In this process and in others, which hold locks on their folders."""
    world.put({"a": b"a" * 1000}, "a")
    world.put({"b": b"b" * 1000}, "b")
    here, elsewhere = world.fetcher(2000), world.fetcher(2000)
    one, two = here.folder(world.listing("a")), elsewhere.folder(world.listing("b"))
    world.put({"c": b"c" * 1000}, "c")
    third = world.fetcher(2000).folder(world.listing("c"))
    assert one.exists()
    assert two.exists()
    elsewhere.close()
    world.put({"d": b"d" * 1000}, "d")
    world.fetcher(2000).folder(world.listing("d"))
    assert one.exists()
    assert not two.exists()
    assert third.exists() is False  # its fetcher is gone, and its locks with it


def test_a_dataset_larger_than_the_bound_is_fetched_with_a_warning(world: World) -> None:
    """Everything unused makes room for it."""
    folders = fill(world, "a")
    world.put({"big": b"x" * 5000}, "big")
    folder = world.fetcher(3000).folder(world.listing("big"))
    assert files_of(folder)
    assert not folders["a"].exists()
    (warning,) = world.log.of("job.warning")
    assert "cache.max_gb" in warning["message"]


def test_shared_content_stays_as_long_as_one_folder_shows_it(world: World) -> None:
    """To remove one dataset takes nothing from another."""
    world.put({"same": b"s" * 1000}, "a")
    world.put({"same": b"s" * 1000, "more": b"m"}, "b")
    for name in ("a", "b"):
        fetcher = world.fetcher()
        fetcher.folder(world.listing(name))
        fetcher.close()
    holding = world.fetcher()
    kept = holding.folder(world.listing("b"))
    world.put({"c": b"c" * 1000}, "c")
    world.fetcher(1500).folder(world.listing("c"))
    assert files_of(kept) == {"same": b"s" * 1000, "more": b"m"}
    assert sha256(b"s" * 1000).hexdigest() in blobs(world.cache)


# Archives


def test_shards_are_unpacked_where_they_lie(world: World) -> None:
    """As if their members had been objects; the shard itself is not kept, and never fetched again."""
    world.put(
        {"images/1.tar": tar_bytes({"c.png": b"c", "deep/d.png": b"d"}), "all.tar": tar_bytes({"x": b"x"})}
    )
    found = world.listing()
    folder = world.fetcher().folder(found)
    loose = {name: content for name, content in files_of(world.data).items() if not name.endswith(".tar")}
    assert files_of(folder) == loose | {"images/c.png": b"c", "images/deep/d.png": b"d", "x": b"x"}
    assert not [*(world.cache / "partial").iterdir()]
    world.put({"images/2.tar": tar_bytes({"e.png": b"e", "f.png": b"aaa"})})
    grown = world.listing()
    assert "images/c.png" in files_of(world.fetcher().folder(grown))
    assert set(downloads(grown)) == {"images/2.tar"}


def test_a_shard_is_one_in_any_case(world: World) -> None:
    """`S.TAR` from another system is unpacked, not left aside."""
    world.put({"S.TAR": tar_bytes({"images/x.png": b"x"})}, "upper")
    folder = world.fetcher().folder(world.listing("upper"))
    assert files_of(folder) == {"images/x.png": b"x"}
    assert world.listing("upper").digest != world.listing("upper", unpack=False).digest


def test_texts_name_places_of_the_store(world: World, tmp_path: Path) -> None:
    """Also where the cache is reached through a link, and only what was fetched."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    fetcher = Fetcher(tmp_path / "link", GB, SILENT, world.log)
    folder = fetcher.folder(world.listing())
    for place in (folder, folder.resolve()):
        assert fetcher.as_users_know(f"{place}/a.png is bad") == f"{world.data}/a.png is bad"
    assert fetcher.as_users_know(str(tmp_path)) == str(tmp_path)


def test_a_broken_list_of_digests_is_named_with_its_place(world: World) -> None:
    """`manifest.json` alone could be any."""
    world.put({"manifest.json": b"{"})
    with pytest.raises(IntegrityError, match=f"^{world.data}/manifest.json is not JSON"):
        world.fetcher().folder(world.listing())


def test_shards_of_a_checkpoint_are_files(world: World) -> None:
    """Only datasets come in archives."""
    world.put({"w.tar": tar_bytes({"a": b"a"})}, "model")
    plain = world.fetcher().folder(world.listing("model", unpack=False))
    assert set(files_of(plain)) == {"w.tar"}
    unpacked = world.fetcher().folder(world.listing("model", unpack=True))
    assert set(files_of(unpacked)) == {"a"}
    assert set(files_of(world.fetcher().folder(world.listing("model", unpack=False)))) == {"w.tar"}


def test_an_interrupted_shard_is_unpacked_without_another_download(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is here: a stop in the middle of it costs the members that were written, not the bytes."""
    world.put({"1.tar": tar_bytes({f"{i}": bytes([i]) for i in range(6)})})
    first = world.listing()
    pauses = iter(range(3))

    def pause(steps: int = 1, **figures: float) -> None:
        if steps == 0 and next(pauses, None) is None:
            raise Cut

    stopping = Fetcher(world.cache, GB, SimpleNamespace(task=lambda *a: _Task(pause)), world.log)
    with pytest.raises(Cut):
        stopping.folder(first)
    second = world.listing()
    folder = world.fetcher().folder(second)
    assert downloads(first)["1.tar"] == 1
    assert not downloads(second)
    assert {f"{i}" for i in range(6)} <= set(files_of(folder))


class _Task:
    def __init__(self, advance: Any) -> None:
        self.advance = advance

    def __enter__(self) -> "_Task":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"images/1.tar": tar_bytes({"a.png": b"x"})},
            r"1\.tar: the member 'a\.png' would lie at images/a\.png",
        ),
        (
            {"1.tar": tar_bytes({"images": b"x"})},
            r"1\.tar: the member 'images' would lie at images, .* folder",
        ),
        ({"1.tar": tar_bytes({"images/a.png/x": b"x"})}, "which is taken by"),
        (
            {"1.tar": tar_bytes({"x": b"1"}), "2.tar": tar_bytes({"x": b"2"})},
            r"2\.tar: the member 'x'.*1\.tar",
        ),
        ({"1.tar": tar_bytes({"../x": b"1"})}, r"1\.tar: the member '\.\./x'"),
        ({"1.tar": tar_bytes([("x", b"1"), ("X", b"1")])}, r"1\.tar: the member 'X'"),
        ({"1.tar": b"no archive at all" * 100}, r"1\.tar: no uncompressed tar"),
        ({"1.tar": tar_bytes({"x": b"1" * 3000})[:2000]}, r"1\.tar"),
    ],
)
def test_a_hostile_shard_leaves_nothing_behind(world: World, files: dict[str, bytes], words: str) -> None:
    """Neither a member nor a folder that looks finished; the next attempt finds it as it is."""
    world.put(files)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=words):
            world.fetcher().folder(world.listing())
    assert not [*(world.cache / "inputs").glob("*.json")]
    assert blobs(world.cache) <= {sha256(one).hexdigest() for one in (b"[]", b"aaa", b"bb", b"m")}
    assert not [*world.cache.parent.glob("x")]


def test_an_object_cannot_be_a_folder_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store it can; on a disk one of the two would be lost."""
    stats = (Stat("a", 1, "e", 0), Stat("a/b", 1, "e", 0))
    found = Listing("s3://b/x", SimpleNamespace(uri="s3://b/x"), stats)
    with pytest.raises(IntegrityError, match=r"s3://b/x/a/b would lie at a/b, which is taken by s3://b/x/a"):
        world.fetcher().folder(found)


# Digests that the author wrote down


def test_promised_digests_are_held_against_what_came(world: World) -> None:
    """A file that is another one is named, and kept nowhere; made good, only that one is fetched."""
    sums = "".join(f"{sha256(c).hexdigest()}  {n}\n" for n, c in files_of(world.data).items())
    world.put({"SHA256SUMS": sums.encode()})
    (world.data / "images/b.png").write_bytes(b"BB")
    with pytest.raises(IntegrityError, match=r"images/b\.png: its content is not what SHA256SUMS promises"):
        world.fetcher().folder(world.listing())
    assert sha256(b"BB").hexdigest() not in blobs(world.cache)
    assert not [*(world.cache / "partial").iterdir()]
    (world.data / "images/b.png").write_bytes(b"bb")
    good = world.listing()
    assert files_of(world.fetcher().folder(good)) == files_of(world.data)
    assert set(downloads(good)) == {"images/b.png"}


def test_members_of_shards_are_compared_too(world: World) -> None:
    """Under the path where they land."""
    world.put({"images/1.tar": tar_bytes({"c.png": b"c"})})
    world.put({"manifest.json": json.dumps({"images/c.png": sha256(b"other").hexdigest()}).encode()})
    for _ in range(2):
        with pytest.raises(
            IntegrityError, match=r"images/c\.png: its content is not what manifest\.json promises"
        ):
            world.fetcher().folder(world.listing())
        assert sha256(b"c").hexdigest() not in blobs(world.cache)
    world.put({"manifest.json": json.dumps({"images/c.png": sha256(b"c").hexdigest()}).encode()})
    assert (world.fetcher().folder(world.listing()) / "images/c.png").read_bytes() == b"c"


def test_a_promise_that_comes_later_is_held_against_what_is_here(world: World) -> None:
    """Content that is known already is compared as well."""
    world.fetcher().folder(world.listing())
    world.put({"images/b.png.sha256": f"{sha256(b'other').hexdigest()}\n".encode()})
    with pytest.raises(IntegrityError, match=r"images/b\.png: its content is not what images/b\.png\.sha256"):
        world.fetcher().folder(world.listing())
    assert sha256(b"bb").hexdigest() not in blobs(world.cache)


def test_a_promised_file_that_is_missing_is_named_before_the_rest_is_fetched(world: World) -> None:
    """Half a dataset is none."""
    world.put({"SHA256SUMS": f"{'0' * 64}  images/gone.png\n".encode()})
    found = world.listing()
    with pytest.raises(IntegrityError, match=r"images/gone\.png is missing, which SHA256SUMS names"):
        world.fetcher().folder(found)
    assert set(downloads(found)) == {"SHA256SUMS"}


# Digests that come later


@dataclass(frozen=True)
class Later(Counting):
    """A store whose digests are known when the test says so."""

    withheld: "list[tuple[Future[str], str]]" = field(default_factory=list)

    def bring(self, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background) -> None:
        def withhold(item: Download, digest: "Future[str]") -> None:
            later: Future[str] = Future()
            self.withheld.append((later, digest.result()))
            if promises_digests(item.source.key):
                self.tell()
            landed(item, later)

        super().bring(items, advance, withhold, digests)

    def tell(self) -> None:
        while self.withheld:
            later, digest = self.withheld.pop()
            later.set_result(digest)


def later(world: World, folder: str = "data") -> Listing:
    found = listing(str(world.root / folder), unpack=True)
    return replace(found, store=Later(found.store, Counter()))


def test_the_next_input_is_brought_before_the_digests_of_the_first_are_known(world: World) -> None:
    """Its files lie under their names, read-only; none is in the cache, and nothing says that it is whole."""
    world.put({"own": b"own"}, "more")
    one, two = later(world), later(world, "more")
    fetcher = world.fetcher()
    folders = [fetcher.bring(one), fetcher.bring(two)]
    assert [files_of(folder) for folder in folders] == [files_of(world.data), {"own": b"own"}]
    assert not os.access(folders[0] / "images" / "a.png", os.W_OK) or os.geteuid() == 0
    assert (folders[0] / "images" / "a.png").stat().st_mode & 0o222 == 0
    assert not blobs(world.cache)
    assert not [*(world.cache / "inputs").glob("*.json")]
    for found in (one, two):
        found.store.tell()
    fetcher.verify()
    fetcher.settle()
    assert blobs(world.cache) == {sha256(data).hexdigest() for data in (b"[]", b"aaa", b"bb", b"m", b"own")}
    assert not [*(world.cache / "partial").iterdir()]
    again = world.listing()
    assert world.fetcher().folder(again) == folders[0]
    assert not downloads(again)


def test_a_kill_before_the_digests_are_known_costs_no_download(world: World) -> None:
    """The files are digested where they lie."""
    world.fetcher().bring(later(world))
    second = world.listing()
    assert files_of(world.fetcher().folder(second)) == files_of(world.data)
    assert not downloads(second)
    assert not [*(world.cache / "partial").iterdir()]


def test_what_was_promised_is_held_against_digests_that_come_later(world: World) -> None:
    """Before anybody may use the files: they are kept nowhere, and the next attempt fetches them again."""
    digests = {name: sha256(content).hexdigest() for name, content in files_of(world.data).items()}
    world.put({"SHA256SUMS": "".join(f"{one}  {name}\n" for name, one in digests.items()).encode()})
    world.put({"images/b.png": b"!!"})
    found = later(world)
    fetcher = world.fetcher()
    folder = fetcher.bring(found)
    found.store.tell()
    with pytest.raises(IntegrityError, match=r"images/b\.png: its content is not what SHA256SUMS promises"):
        fetcher.verify()
    assert not (folder / "images" / "b.png").exists()
    assert sha256(b"!!").hexdigest() not in blobs(world.cache)
    assert not [*(world.cache / "partial").iterdir()]
    assert not [*(world.cache / "inputs").glob("*.json")]
    world.put({"images/b.png": b"bb"})
    again = world.listing()
    assert files_of(fetcher.folder(again)) == files_of(world.data)
    assert set(downloads(again)) == {"images/b.png"}


def test_a_list_of_digests_that_a_kill_left_is_taken_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon its own digest is known."""
    world.put({"SHA256SUMS": f"{sha256(b'bb').hexdigest()}  images/b.png".encode()})

    def cut(self: Any, known: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(object_cache.Index, "put_all", cut)
        with pytest.raises(Cut):
            world.fetcher().folder(world.listing())

    def at_once(self: Any, job: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(job())
        return future

    monkeypatch.setattr(Background, "submit", at_once)
    again = world.listing()
    assert files_of(world.fetcher().folder(again)) == files_of(world.data)
    assert "SHA256SUMS" not in downloads(again)


def test_content_that_is_known_already_is_shown_once_it_is_told_to_be_that(world: World) -> None:
    """Equal files of one listing, and of another one, are one on the disk."""
    world.put({"images/copy.png": b"aaa"})
    world.put({"own": b"bb"}, "more")
    one, two = later(world), later(world, "more")
    fetcher = world.fetcher()
    first, second = fetcher.bring(one), fetcher.bring(two)
    for found in (one, two):
        found.store.tell()
    fetcher.verify()
    assert (first / "images/copy.png").samefile(first / "images/a.png")
    assert (second / "own").samefile(first / "images/b.png")
    assert files_of(first) == files_of(world.data)


def test_of_two_that_bring_an_object_at_a_time_one_takes_it_into_the_cache(world: World) -> None:
    """The other, whose digests were slower, finds it there."""
    slow = later(world)
    world.put({"new": b"new"})
    fetcher = world.fetcher()
    folder = fetcher.bring(slow)
    assert files_of(world.fetcher().folder(world.listing())) == files_of(world.data)
    slow.store.tell()
    fetcher.verify()
    assert files_of(folder) == {name: data for name, data in files_of(world.data).items() if name != "new"}
    assert downloads(slow).total() == 4


# Several at once


def test_of_two_that_fetch_the_same_one_downloads(world: World) -> None:
    """The second waits, and finds everything there."""
    found = [world.listing(), world.listing()]
    barrier = threading.Barrier(2)
    folders: list[Path] = []

    def work(one: Listing) -> None:
        barrier.wait()
        folders.append(world.fetcher().folder(one))

    threads = [threading.Thread(target=work, args=(one,)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[1]
    assert downloads(found[0]) + downloads(found[1]) == Counter([*files_of(world.data)])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_happened_before_the_folder_is_the_store_s(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Files that come, go and change, cuts, edits and a small cache: every fetch that succeeds is right."""
    folder = tmp_path_factory.mktemp("world")
    world = World(folder / "store", folder / "cache", Log())
    names = [f"{a}/{b}" for a in "xy" for b in "pqr"]
    world.put({names[0]: b"start"})
    for _ in range(data.draw(st.integers(1, 5))):
        for name in data.draw(st.lists(st.sampled_from(names), max_size=3)):
            world.put({name: data.draw(st.binary(max_size=6))})
        inside = [
            p
            for p in (world.cache / "inputs").rglob("*")
            if p.is_file() and p.parent != world.cache / "inputs"
        ]
        if inside and data.draw(st.booleans()):
            edited = data.draw(st.sampled_from(sorted(inside)))
            edited.chmod(0o644)
            edited.write_bytes(b"edited")
        found = world.listing(most=data.draw(st.sampled_from([1, 2, 100])))
        fetcher = world.fetcher(data.draw(st.sampled_from([3, 20, GB])))
        try:
            assert files_of(fetcher.folder(found)) == files_of(world.data)
        except Cut:
            pass
        finally:
            fetcher.close()


def test_memory_stays_flat(world: World) -> None:
    """A file and a shard of 32 MB each pass through in pieces."""
    world.put({"big": bytes(32 << 20), "1.tar": tar_bytes({"inside": bytes(32 << 20)})}, "big")
    found = world.listing("big")
    tracemalloc.start()
    world.fetcher().folder(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_real_store_is_fetched_like_any_other(world: World, s3_prefix: str) -> None:
    """Over S3: shards unpacked, once only, then what is new; what changed meanwhile is not passed off."""
    store = open_store(s3_prefix)
    expected = {f"images/{i}.png": bytes([i]) * (1000 * i) for i in range(12)}
    for name, content in expected.items():
        store.write(name, content)
    store.write("images/", b"")
    store.write("masks/1.tar", tar_bytes({"0.png": b"zero", "1.png": b"one"}))
    expected |= {"masks/0.png": b"zero", "masks/1.png": b"one"}
    for _ in range(2):
        assert files_of(world.fetcher().folder(listing(s3_prefix, unpack=True))) == expected
    store.write("images/new.png", b"new")
    stale = listing(s3_prefix, unpack=True)
    store.write("images/3.png", b"three")
    world.fetcher().folder(listing(s3_prefix, unpack=True))
    assert [e["downloaded_files"] for e in world.log.of("pull.fetched")] == [13, 0, 2]
    shutil.rmtree(world.cache)
    with pytest.raises(TryAgain, match=r"images/3\.png.* changed while it was being downloaded"):
        world.fetcher().folder(stale)
    folder = world.fetcher().folder(listing(s3_prefix, unpack=True))
    assert files_of(folder) == expected | {"images/new.png": b"new", "images/3.png": b"three"}
