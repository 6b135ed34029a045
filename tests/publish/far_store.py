"""A store that passes for a remote one: it can die between two writes, and damage what it is sent."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job.storage.local_store import LocalStore
from job.storage.run_folder import RunFolder
from job.storage.store import Advance, Arrived, Download, Stat, Upload, no_advance, no_arrival


class Killed(BaseException):
    """The process died here."""


@dataclass
class FarStore:
    """Objects of a folder; `dies_after` writes it kills, `damages` uploads it changes on their way."""

    folder: Path
    dies_after: int | None = None
    damages: int = 0
    requests: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def uri(self) -> str:
        return f"far://{self.folder.name}"

    @property
    def local(self) -> LocalStore:
        return LocalStore(self.folder)

    def at(self, prefix: str) -> "FarStore":
        return FarStore(self.folder / prefix)

    def stat(self, key: str) -> Stat | None:
        self.requests.append(f"stat {key}")
        return self.local.stat(key)

    def entries(self, prefix: str = "") -> Iterator[Stat]:
        self.requests.append(f"list {prefix}")
        return self.local.entries(prefix)

    def children(self) -> list[str]:
        self.requests.append("children")
        return self.local.children()

    def read(self, key: str) -> tuple[bytes, str]:
        self.requests.append(f"read {key}")
        return self.local.read(key)

    def write(self, key: str, data: bytes) -> str:
        self._write(f"write {key}")
        return self.local.write(key, data)

    def create(self, key: str, data: bytes) -> str:
        self._write(f"create {key}")
        return self.local.create(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        self._write(f"replace {key}")
        return self.local.replace(key, data, etag)

    def download(
        self, items: Sequence[Download], advance: Advance = no_advance, arrived: Arrived = no_arrival
    ) -> list[str]:
        self.requests += [f"download {item.source.key}" for item in items]
        return self.local.download(items, advance, arrived)

    def upload(self, items: Sequence[Upload], advance: Advance = no_advance) -> list[str]:
        digests = []
        for item in items:
            self._write(f"upload {item.key}")
            digests += self.local.upload([item], advance)
            if self.damages:
                self.damages -= 1
                path = self.folder / item.key
                path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        return digests

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._write(f"delete {key}")
            self.local.delete([key])

    def now(self) -> float:
        return self.local.now()

    def abort_stale_uploads(self, older_than_s: float) -> int:
        return self.local.abort_stale_uploads(older_than_s)

    def _write(self, request: str) -> None:
        with self._lock:
            if self.dies_after is not None:
                if self.dies_after == 0:
                    raise Killed(request)
                self.dies_after -= 1
            self.requests.append(request)


def sealed(
    root: Path, run_id: str = "r1", *, results: str = "same", exit_code: int = 0, **files: str
) -> RunFolder:
    """Make a finished run folder on this disk, as a job leaves it."""
    folder = RunFolder(root, "vessels", run_id)
    for name, text in {"candidate.json": "{}", "evaluation/measured": "measured", **files}.items():
        folder.write(name, text)
    folder.write("job.log.jsonl", "{}\n")
    folder.seal(
        exit_code=exit_code,
        verdict="invalid" if exit_code else "improved",
        identity="me",
        results_digest=results,
    )
    return folder
