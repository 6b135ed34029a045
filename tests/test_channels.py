"""What the process says and leaves, kept from others."""

import os
import subprocess
import sys
from pathlib import Path

from job import channels

ROOT = Path(__file__).parent.parent
SAYS = """
import sys, threading, warnings
from job import channels
channels.guard()
print("out canary-canary", sys.stdout.isatty(), sys.stdout.fileno())
print("naïve \\udcff", file=sys.stderr)
warnings.warn("warned canary-canary")
thread = threading.Thread(target=lambda: 1 / len("canary-canary".join([])))
thread.start(); thread.join()
open("file", "w").close()
raise RuntimeError("raised canary-canary")
"""


def said(folder: Path, code: str, *, umask: int = 0) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "A_SECRET": "canary-canary", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, umask=umask
    )


def test_standard_output_and_error_hold_no_secret(tmp_path: Path) -> None:
    """Nor what warnings and uncaught errors print there; the streams are as they were in all else."""
    done = said(tmp_path, SAYS)
    assert done.stdout == "out *** False 1\n"
    assert "naïve \\udcff" in done.stderr
    assert "warned ***" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.endswith("RuntimeError: raised ***\n")
    assert "canary-canary" not in done.stdout + done.stderr


def test_others_must_not_write_what_is_made(tmp_path: Path) -> None:
    """Whatever the umask says; one that forbids more is kept."""
    for umask, mode in ((0o000, 0o644), (0o002, 0o644), (0o027, 0o640), (0o077, 0o600)):
        (tmp_path / "file").unlink(missing_ok=True)
        said(tmp_path, SAYS, umask=umask)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_process_without_streams_is_guarded(tmp_path: Path) -> None:
    """Standard output and error may be closed from the start."""
    code = "import sys; sys.stdout = None; from job import channels; channels.guard(); print('x')"
    assert said(tmp_path, code).returncode == 0
    assert channels.OTHERS_MUST_NOT_WRITE == 0o022
