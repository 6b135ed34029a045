"""What a process may use; the tests of `doctor` look at containers."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from job.memory import available_memory, memory

GIB = 2**30


def test_the_limit_on_addresses_counts() -> None:
    """Under `ulimit -v` what is left of it is free, however much the machine has."""
    code = (
        "import resource; from job.memory import memory;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}));"
        "found = memory(); print(found.total, found.free, found.limit)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    total, free, limit = done.stdout.split(maxsplit=2)
    assert int(total) == GIB
    assert 0.5 * GIB < int(free) < GIB
    assert "ulimit" in limit


def test_what_is_free_is_what_the_kernel_says() -> None:
    """At most the machine's total, and about what /proc/meminfo has available, or less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    found = available_memory()
    assert found is not None
    assert 0 < found <= 1.2 * available
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert memory().total > found


@pytest.mark.parametrize("text", [None, "", "MemTotal: many kB"])
def test_a_system_that_does_not_say_is_no_error(tmp_path: Path, text: str | None) -> None:
    """Other kernels have no such file: then nothing is known."""
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "meminfo").write_text(text)
    assert available_memory(tmp_path) is None
