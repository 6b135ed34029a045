"""Moving bytes to and from a real store: killed in the middle, at the borders of parts, in flat memory."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from job.errors import TryAgain
from job.storage import s3_client, s3_transfer
from job.storage.background import Background
from job.storage.s3 import S3Store
from job.storage.s3_transfer import PART
from job.storage.store import Download, Upload
from job.storage.uris import split_s3
from tests.fault_proxy import open_proxy
from tests.s3_server import Server

MB = 1 << 20
ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a tempfile is made in it

CHILD = """
import os, signal, sys
from pathlib import Path
from job.storage.background import Background
from job.storage.s3 import S3Store
from job.storage.store import Download, Upload

what, bucket, prefix, path, kill_at = *sys.argv[1:5], int(sys.argv[5])
moved = 0

def advance(n_bytes):
    global moved
    moved += n_bytes
    if kill_at and moved > kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

store = S3Store(bucket, prefix)
if what == "download":
    store.download([Download(store.stat("big"), Path(path))], advance)
else:
    store.upload([Upload(Path(path), "big")], advance)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.fixture
def store(s3_prefix: str) -> S3Store:
    return S3Store(*split_s3(s3_prefix))


def child(what: str, store: S3Store, path: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    arguments = [what, store.bucket, store.prefix, str(path), str(kill_at)]
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )


def file_of(path: Path, size: int) -> str:
    """Write so many bytes, of which no two parts are alike; returns their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for i in range(-(-size // MB)):
            block = (b"%08d" % i) * (MB // 8)
            block = block[: size - i * MB]
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def brought(store: S3Store, keys: Sequence[str], folder: Path) -> list[str]:
    downloads = []
    for key in keys:
        found = store.stat(key)
        assert found is not None
        downloads.append(Download(found, folder / key))
    return store.download(downloads)


def test_a_killed_download_is_taken_up_where_it_was(
    store: S3Store, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 after half of 200 MB: no file; the next call fetches only what had not arrived."""
    digest = file_of(tmp_path / "s", 200 * MB)
    assert store.upload([Upload(tmp_path / "s", "big")]) == [digest]
    target = tmp_path / "there" / "t"
    killed = child("download", store, target, kill_at=100 * MB)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    with open_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3_client.forget()
        found = store.stat("big")
        assert found is not None
        moved: list[int] = []
        assert store.download([Download(found, target)], moved.append) == [digest]
        s3_client.client().close()
    fetched = sum(one.answer_bytes for one in proxy.seen if one.operation == "GetObject")
    assert 0 < fetched <= 200 * MB - 80 * MB
    assert sum(moved) == 200 * MB
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    assert [path.name for path in target.parent.iterdir()] == ["t"]


def test_a_killed_upload_is_not_seen_and_can_be_removed(store: S3Store, tmp_path: Path) -> None:
    """kill -9 after half of 200 MB: the old object stays; what was sent is found, and cleared."""
    store.write("big", b"old")
    file_of(tmp_path / "s", 200 * MB)
    killed = child("upload", store, tmp_path / "s", kill_at=100 * MB)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert store.read("big")[0] == b"old"
    assert [found.size for found in store.entries()] == [3]
    assert unfinished(store) == ["big"]
    assert store.abort_stale_uploads(3600) == 0
    assert unfinished(store) == ["big"]
    assert store.at("elsewhere").abort_stale_uploads(0) == 0
    assert store.abort_stale_uploads(0) == 1
    assert unfinished(store) == []
    assert store.abort_stale_uploads(0) == 0


def unfinished(store: S3Store) -> list[str]:
    answer = s3_client.client().list_multipart_uploads(Bucket=store.bucket, Prefix=f"{store.prefix}/")
    return [upload["Key"].removeprefix(f"{store.prefix}/") for upload in answer.get("Uploads", ())]


def test_what_another_boot_of_the_machine_recorded_is_not_believed(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part may have been recorded and, in a power cut, never have reached the disk."""
    digest = file_of(tmp_path / "s", 100 * MB)
    store.upload([Upload(tmp_path / "s", "big")])
    target = tmp_path / "t"
    assert child("download", store, target, kill_at=50 * MB).returncode == -signal.SIGKILL
    partial = tmp_path / ".t.tmp"
    partial.write_bytes(bytes(100 * MB))
    monkeypatch.setattr(s3_transfer, "boot_id", lambda: "another")
    assert brought(store, ["big"], tmp_path / "u") == [digest]
    found = store.stat("big")
    assert found is not None
    assert store.download([Download(found, target)]) == [digest]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"etag": 1}', '{"done": "x"}'])
def test_a_record_that_makes_no_sense_is_as_good_as_none(
    store: S3Store, tmp_path: Path, record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies there, the file is right."""
    monkeypatch.setattr(s3_transfer, "PART", 5 * MB)
    digest = file_of(tmp_path / "s", 6 * MB)
    store.upload([Upload(tmp_path / "s", "big")])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".big.parts.tmp").write_text(record)
    (tmp_path / "d" / ".big.tmp").write_bytes(bytes(9 * MB))
    assert brought(store, ["big"], tmp_path / "d") == [digest]
    assert (tmp_path / "d" / "big").stat().st_size == 6 * MB


@pytest.mark.parametrize(
    ("size", "puts", "sent", "fetched"),
    [(0, 1, 0, 1), (PART - 1, 1, 0, 1), (PART, 1, 0, 1), (PART + 1, 0, 2, 2), (20 * MB, 0, 3, 3)],
)
def test_sizes_around_a_part(
    store: S3Store,
    s3_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    puts: int,
    sent: int,
    fetched: int,
) -> None:
    """Up to a part in one request, beyond it in as many as there are parts, both ways."""
    digest = file_of(tmp_path / "s", size)
    with open_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3_client.forget()
        assert store.upload([Upload(tmp_path / "s", "one")]) == [digest]
        assert brought(store, ["one"], tmp_path / "d") == [digest]
        s3_client.client().close()
    assert (proxy.count("PutObject"), proxy.count("UploadPart")) == (puts, sent)
    assert proxy.count("GetObject") == fetched
    assert (tmp_path / "d" / "one").read_bytes() == (tmp_path / "s").read_bytes()


@pytest.mark.parametrize("cpus", [2, 16])
def test_digests_may_come_later(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    """Of what is large: where processors are few, after everything has landed. They are the same."""
    monkeypatch.setattr(s3_transfer, "available_cpus", lambda: cpus)
    sizes = {"big": 2 * PART + 5, "huge": 5 * PART, "middle": 3 * MB, "small": 1000}
    expected = {key: file_of(tmp_path / key, size) for key, size in sizes.items()}
    store.upload([Upload(tmp_path / key, key) for key in sizes])
    items = [Download(found, tmp_path / "d" / found.key) for found in store.entries()]
    digests: dict[str, Future[str]] = {}
    known_at_once: dict[str, bool] = {}

    def landed(item: Download, digest: "Future[str]") -> None:
        assert item.target.stat().st_size == sizes[item.source.key]
        known_at_once[item.source.key] = digest.done()
        digests[item.source.key] = digest

    store.bring(items, lambda n_bytes: None, landed, Background("digest", 2))
    assert {key: digest.result(20) for key, digest in digests.items()} == expected
    assert known_at_once["small"]
    if cpus == 2:
        assert [key for key, known in known_at_once.items() if known] == ["small"]


def test_a_file_that_shrinks_before_it_is_digested_is_told(store: S3Store, tmp_path: Path) -> None:
    """By the digest, which nobody mistakes for one."""
    file_of(tmp_path / "source", 2 * PART)
    store.upload([Upload(tmp_path / "source", "big")])
    found = store.stat("big")
    assert found is not None
    told: list[Future[str]] = []
    digests = Background("digest", 1)
    with digests.held():
        store.bring(
            [Download(found, tmp_path / "t")],
            lambda n_bytes: None,
            lambda _, digest: told.append(digest),
            digests,
        )
        os.truncate(tmp_path / "t", PART)
    with pytest.raises(TryAgain, match="became shorter"):
        told[0].result(20)


def test_nothing_to_move_is_nothing_to_do(store: S3Store) -> None:
    """Empty lists: no request that could fail, and no digest."""
    assert store.upload([]) == []
    assert store.download([]) == []
    store.delete([])


def test_more_large_objects_than_a_process_may_have_files(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are open only while a part is written to them."""
    monkeypatch.setattr(s3_transfer, "PART", 5 * MB)
    digest = file_of(tmp_path / "s", 5 * MB + 1)
    store.upload([Upload(tmp_path / "s", "big")])
    found = store.stat("big")
    assert found is not None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 40, hard))
    try:
        digests = store.download([Download(found, tmp_path / "d" / str(i)) for i in range(60)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert digests == [digest] * 60


def test_a_file_that_is_not_there_is_no_missing_object(store: S3Store, tmp_path: Path) -> None:
    """An absence on this machine is not reported as one in the store."""
    with pytest.raises(FileNotFoundError):
        store.upload([Upload(tmp_path / "no-such-file", "a")])


@pytest.mark.system  # 2.2 GB move
@pytest.mark.parametrize("what", ["upload", "download"])
def test_memory_does_not_grow_with_the_object(store: S3Store, what: str) -> None:
    """The peak of a process that moves 1 GB is within 60 MB of one that moves 100 MB."""
    in_memory = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if in_memory else None) as folder:
        path, peaks_kb = Path(folder, "f"), []
        for size in (100 * MB, 1000 * MB):
            path.touch()
            os.truncate(path, size)  # zeros that take no space
            if what == "download":
                store.upload([Upload(path, "big")])
                path.unlink()
            moved = child(what, store, path)
            assert moved.returncode == 0, moved.stderr
            peaks_kb.append(int(moved.stdout))
    assert peaks_kb[1] - peaks_kb[0] < 60 * 1024, peaks_kb
