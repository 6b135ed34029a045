"""Digests of large files, taken once."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from job.inputs import IDENTITIES, Files, Found
from job.progress import SILENT
from job.segmenters import file_digests as module
from job.segmenters.file_digests import file_digests, hand_over
from job.storage.fetch import Fetcher, listing
from job.storage.object_cache import SEALED_NS


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "folder" / name for name in ("a", "b")]
    found[0].parent.mkdir()
    for file in found:
        file.write_text(file.name)
    return found


EXPECTED = [sha256(name).hexdigest() for name in (b"a", b"b")]


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sha256_file", lambda path: pytest.fail(f"{path} is read"))


def test_a_file_is_read_once_while_it_stays(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By size and time of change; another one is read again, and so is everything where nothing is kept."""
    memory = tmp_path / "memory"
    assert file_digests(files) == file_digests(files, memory) == EXPECTED
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert file_digests(files, memory) == EXPECTED
    files[1].write_text("!")
    os.utime(files[1], ns=(1, 1))
    assert file_digests(files, memory) == [EXPECTED[0], sha256(b"!").hexdigest()]
    (memory / "file_digests.json").write_text('{"damaged": 3}')
    assert file_digests(files, memory) == [EXPECTED[0], sha256(b"!").hexdigest()]


def test_what_was_digested_elsewhere_is_not_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after it is given the time that was announced, and at no other time."""
    memory = tmp_path / "memory"
    file_digests(files[:1], memory)
    hand_over(dict(zip(files, EXPECTED, strict=True)), memory, SEALED_NS)
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert file_digests(files, memory) == EXPECTED
        os.utime(files[1], ns=(SEALED_NS, SEALED_NS))
        assert file_digests(files, memory) == EXPECTED
    files[1].write_text("!")
    assert file_digests(files, memory) == [EXPECTED[0], sha256(b"!").hexdigest()]


@dataclass
class Quiet:
    def info(self, event: str, **fields: Any) -> None:
        pass

    warning = info


def test_a_checkpoint_that_was_fetched_is_verified_and_its_digests_are_known(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything of it can be used: fetching ends with that, and the content key reads nothing again."""
    cache = tmp_path / "cache"
    fetcher = Fetcher(cache, 10**9, SILENT, Quiet())  # type: ignore[arg-type]
    waited: list[int] = []
    verify = fetcher.verify
    monkeypatch.setattr(fetcher, "verify", lambda of=None: (verify(of), waited.append(1)))
    found = Found(None, None, listing(str(files[0].parent)), None, None, {}, Files(cache))
    inputs = found.fetch(fetcher)
    assert waited
    brought = [inputs.segmenter / file.name for file in files]
    forbid_reading(monkeypatch)
    assert file_digests(brought, cache / IDENTITIES) == EXPECTED
    inputs.settle()
    assert {file.stat().st_mtime_ns for file in brought} == {SEALED_NS}
    assert file_digests(brought, cache / IDENTITIES) == EXPECTED
