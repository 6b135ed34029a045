"""Every hostile file, through the door that it would come by: refused by name, nothing run, cheaply."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile import valid
from tests.hostile.corpus import CORPUS
from tests.hostile.doors import DOORS
from tests.hostile.making import Hostile

MOST_MEMORY_BYTES = 400 << 20
"""Beyond what the process had before: a document refused for its number of lists has been read once."""
MOST_SECONDS = 2.0
"""Of the processor's time, which other tests do not use up."""


@dataclass
class Cost:
    seconds: float = 0.0
    memory_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block; it cannot take more than 2 GiB, so that a bomb ends the test and not the machine."""
    cost, before = Cost(), _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + (2 << 30), limits[1]))
    started = time.process_time()
    try:
        yield cost
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        cost.seconds = time.process_time() - started
        cost.memory_bytes = _status("VmHWM") - before


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what the doors import, and see that honest files pass: else a refusal would prove nothing."""
    folder = tmp_path_factory.mktemp("honest")
    honest = {
        "spec": _written(folder / "spec.json", valid.spec()),
        "dataset": valid.dataset(folder / "data"),
        "picture": _written(folder / "a.png", valid.picture()),
        "archive": valid.archive(folder / "a.tar"),
        "sums": _written(folder / "SHA256SUMS", valid.sums()),
        "network": valid.network(folder / "net.safetensors"),
        "policy": valid.policy(folder / "p.safetensors"),
        "tensors": valid.policy(folder / "t.safetensors"),
        "segmenter": valid.checkpoint(folder / "checkpoint"),
        "lease": _written(folder / "lease.json", valid.lease()),
        "stage": valid.sealed(folder / "stage"),
        "candidate": valid.candidate_folder(folder / "run").parent,
    }
    for door, path in honest.items():
        answer = DOORS[door](path)
        assert answer.exit_code == 0, (door, answer)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name.replace(" ", "-"))
def test_a_hostile_file_is_refused(hostile: Hostile, tmp_path: Path) -> None:
    """By the exit code of its kind, in a message that names it; no code of it runs, and it costs little."""
    folder, marker = tmp_path / "in", tmp_path / "MARKER"
    folder.mkdir()
    path = hostile.make(folder, marker)
    with measured() as cost:
        answer = DOORS[hostile.door](path)
    assert answer.exit_code == hostile.exit_code, answer.text
    assert (hostile.names or path.name) in answer.text
    assert "Traceback" not in answer.text
    assert not marker.exists()
    assert cost.memory_bytes < MOST_MEMORY_BYTES
    assert cost.seconds < MOST_SECONDS


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/self/status")
