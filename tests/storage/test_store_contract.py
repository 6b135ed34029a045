"""What every store promises, asked of a folder and of a real S3 server alike."""

import hashlib
import threading
from pathlib import Path

import pytest

from job.errors import IntegrityError, Interrupted, Missing
from job.storage.local_store import LocalStore
from job.storage.preflight import check
from job.storage.store import Changed, Download, ObjectStore, Upload
from job.storage.uris import open_store

MB = 1 << 20


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return open_store(request.getfixturevalue("s3_prefix"))


def brought(store: ObjectStore, key: str, target: Path) -> str:
    found = store.stat(key)
    assert found is not None
    return store.download([Download(found, target)])[0]


def test_what_was_written_is_read_with_its_version(store: ObjectStore) -> None:
    """read, stat and write name the same version; another content is another version."""
    first = store.write("a/b.json", b"one")
    assert store.read("a/b.json") == (b"one", first)
    found = store.stat("a/b.json")
    assert found is not None
    assert (found.key, found.size, found.etag) == ("a/b.json", 3, first)
    second = store.write("a/b.json", b"two!")
    assert second != first
    assert store.read("a/b.json") == (b"two!", second)


def test_what_is_not_there_is_missing_and_nothing_else(store: ObjectStore, tmp_path: Path) -> None:
    """stat says None, read and download raise Missing, deleting it is no error."""
    assert store.stat("no/such") is None
    with pytest.raises(Missing):
        store.read("no/such")
    store.write("there", b"x")
    found = store.stat("there")
    assert found is not None
    store.delete(["there", "never/there"])
    with pytest.raises((Missing, Changed)):
        store.download([Download(found, tmp_path / "x")])
    assert not (tmp_path / "x").exists()
    assert list(store.entries("no")) == []


def test_entries_are_those_of_the_prefix_sorted(store: ObjectStore) -> None:
    """A prefix counts by characters; a store below another sees its own keys only."""
    keys = ["runs/a/1", "runs/a/10", "runs/ab", "stages/x", "runs.json"]
    for key in keys:
        store.write(key, key.encode())
    assert [found.key for found in store.entries("runs/a")] == ["runs/a/1", "runs/a/10", "runs/ab"]
    assert [found.key for found in store.entries("runs/a/")] == ["runs/a/1", "runs/a/10"]
    assert {found.key for found in store.entries()} == set(keys)
    below = store.at("runs")
    assert [found.key for found in below.entries()] == ["a/1", "a/10", "ab"]
    assert below.read("ab")[0] == b"runs/ab"
    assert below.uri == f"{store.uri}/runs"
    assert [found.size for found in store.at("stages").entries()] == [8]


def test_children_are_what_lies_directly_below(store: ObjectStore) -> None:
    """Files by name, folders with a slash, and nothing of what is in them."""
    for key in ["data/a.png", "data/masks/1.png", "data/masks/2.png", "other/x"]:
        store.write(key, b"x")
    assert store.children() == ["data/", "other/"]
    assert store.at("data").children() == ["a.png", "masks/"]
    assert store.at("nothing").children() == []


def test_more_entries_than_a_page_holds(store: ObjectStore, tmp_path: Path) -> None:
    """1,100 objects are listed, and deleted, in full."""
    source = tmp_path / "one"
    source.write_bytes(b"1")
    store.upload([Upload(source, f"many/{i:05d}") for i in range(1100)])
    keys = [found.key for found in store.entries("many/")]
    assert keys == [f"many/{i:05d}" for i in range(1100)]
    store.delete(keys)
    assert list(store.entries("many/")) == []


def test_create_is_for_the_first_alone(store: ObjectStore) -> None:
    """The second finds Changed, and the first one's bytes stay."""
    etag = store.create("lease", b"mine")
    with pytest.raises(Changed):
        store.create("lease", b"yours")
    assert store.read("lease") == (b"mine", etag)


def test_replace_is_for_whoever_knows_the_version(store: ObjectStore) -> None:
    """A stale version, and one of an object that is gone, find Changed."""
    first = store.write("pointer", b"1")
    second = store.replace("pointer", b"2", first)
    with pytest.raises(Changed):
        store.replace("pointer", b"3", first)
    assert store.read("pointer") == (b"2", second)
    store.delete(["pointer"])
    with pytest.raises(Changed):
        store.replace("pointer", b"4", second)
    assert store.stat("pointer") is None


def test_one_of_many_racing_writers_wins(store: ObjectStore) -> None:
    """Twenty threads create one key: one of them did, and its bytes are there."""
    won: list[bytes] = []
    start = threading.Barrier(20)

    def race(me: bytes) -> None:
        start.wait()
        try:
            store.create("raced", me)
        except Changed:
            return
        won.append(me)

    threads = [threading.Thread(target=race, args=(b"%d" % i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("raced")[0] == won[0]


@pytest.mark.parametrize("size", [0, 1, MB, 33 * MB + 7])
def test_files_go_there_and_come_back(store: ObjectStore, tmp_path: Path, size: int) -> None:
    """Small and large, empty too: the same bytes, and their sha256 both ways."""
    data = hashlib.shake_256(b"%d" % size).digest(min(size, MB)) * (size // MB + 1)
    source, target = tmp_path / "source", tmp_path / "far" / "target"
    source.write_bytes(data[:size])
    expected = hashlib.sha256(data[:size]).hexdigest()
    moved: list[int] = []
    assert store.upload([Upload(source, "deep/er/file.bin")], moved.append) == [expected]
    assert sum(moved) == size
    assert brought(store, "deep/er/file.bin", target) == expected
    assert hashlib.sha256(target.read_bytes()).hexdigest() == expected
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_digests_come_in_the_order_of_the_items(store: ObjectStore, tmp_path: Path) -> None:
    """Large and small ones mixed."""
    sizes = [3, 20 * MB, 5, 17 * MB, 0]
    items = []
    for i, size in enumerate(sizes):
        path = tmp_path / f"{i}"
        path.write_bytes(bytes([i]) * size)
        items.append(Upload(path, f"mixed/{i}"))
    expected = [hashlib.sha256(bytes([i]) * size).hexdigest() for i, size in enumerate(sizes)]
    assert store.upload(items) == expected
    downloads = [Download(found, tmp_path / "back" / found.key) for found in store.entries("mixed/")]
    assert store.download(downloads) == expected


@pytest.mark.parametrize(
    "name", ["with space", "per%20cent", "plus+and&", "ümläut-血管", "a=b,c;d", "(1)", "#x", "~y"]
)
def test_odd_names_are_kept(store: ObjectStore, tmp_path: Path, name: str) -> None:
    """What a key holds is what it holds, by every way in and out."""
    source = tmp_path / "s"
    source.write_bytes(name.encode())
    store.upload([Upload(source, f"odd/{name}")])
    assert [found.key for found in store.entries("odd/")] == [f"odd/{name}"]
    assert store.read(f"odd/{name}")[0] == name.encode()
    assert brought(store, f"odd/{name}", tmp_path / "t") == hashlib.sha256(name.encode()).hexdigest()
    store.delete([f"odd/{name}"])
    assert store.stat(f"odd/{name}") is None


@pytest.mark.parametrize("size", [10, 20 * MB])
def test_an_object_that_changed_since_it_was_listed_is_noticed(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    """A download never mixes two versions, nor brings another one than it was asked for."""
    source = tmp_path / "s"
    source.write_bytes(b"a" * size)
    store.upload([Upload(source, "x")])
    old = store.stat("x")
    source.write_bytes(b"b" * size)
    store.upload([Upload(source, "x")])
    assert old is not None
    with pytest.raises(Changed):
        store.download([Download(old, tmp_path / "t")])
    assert not (tmp_path / "t").exists()


def test_each_arrival_is_told_at_once_to_the_one_who_asked(store: ObjectStore, tmp_path: Path) -> None:
    """In its thread, with the file in its place: large ones, small ones, and those before an error."""
    data = {"a": b"a" * 100, "b": bytes(9 * MB), "c": b"c"}
    for key, content in data.items():
        (tmp_path / f"{key}.source").write_bytes(content)
    store.upload([Upload(tmp_path / f"{key}.source", key) for key in data])
    items = [Download(found, tmp_path / found.key) for found in store.entries()]
    told: dict[str, str] = {}

    def arrived(item: Download, sha256: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert item.target.read_bytes() == data[item.source.key]
        told[item.source.key] = sha256

    digests = store.download(items, arrived=arrived)
    assert told == dict(zip(data, digests, strict=True))
    assert digests == [hashlib.sha256(content).hexdigest() for content in data.values()]


def test_a_stopped_download_leaves_no_file_and_goes_on(store: ObjectStore, tmp_path: Path) -> None:
    """Interrupted half way: nothing under the name; the next call brings the whole file."""
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_bytes(bytes(range(256)) * (50 * MB // 256))
    (expected,) = store.upload([Upload(source, "x")])
    found = store.stat("x")
    assert found is not None
    moved = 0

    def stop_after_a_while(n_bytes: int) -> None:
        nonlocal moved
        moved += n_bytes
        if moved > 17 * MB:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        store.download([Download(found, target)], stop_after_a_while)
    assert not target.exists()
    assert store.download([Download(found, target)]) == [expected]


def test_the_clock_is_the_store_s(store: ObjectStore) -> None:
    """What is written now is modified now, by one clock."""
    before = store.now()
    store.write("x", b"1")
    found = store.stat("x")
    assert found is not None
    assert before - 2 <= found.modified <= store.now() + 2


def test_the_preflight_finds_a_good_store_good_and_leaves_nothing(store: ObjectStore) -> None:
    """Conditions are honoured, the clocks agree, and the probe is gone."""
    found = check(store)
    assert found.conditional_writes
    assert abs(found.clock_skew_s) < 3
    assert list(store.entries()) == []


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/passwd", "a//b", "", "nul\0", "a/.", "..\\x"])
def test_no_key_leaves_the_folder(tmp_path: Path, key: str) -> None:
    """A folder's store takes no key that would be a file elsewhere."""
    store = LocalStore(tmp_path / "store")
    for ask in (store.stat, store.read, lambda name: store.write(name, b"x")):
        with pytest.raises(IntegrityError):
            ask(key)
    assert list(tmp_path.rglob("*")) == []
