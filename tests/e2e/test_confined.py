"""As a cluster runs it: a user that nobody knows, no home, and a root file system that cannot be written."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from job.storage.uris import open_store
from tests.e2e.child import TINY
from tests.e2e.watched import watch
from tests.s3_server import NOBODYS_OWN, Server

UID = 12345
READ_ONLY = r"""
set -eu
writable=$1; shift
mount --make-rprivate /
mount --bind "$writable" "$writable"
findmnt --raw --noheadings --output TARGET | while read -r target; do
    case "$target" in
        "$writable" | /proc* | /sys* | /dev*) ;;
        *) mount -o remount,bind,ro "$target" || [ ! -e "$target" ] ;;
    esac
done
exec "$@"
"""
"""Makes all but one folder read-only, in this process's view alone; goes on with the words that follow."""


def confined(writable: Path, *, uid: int | None = None) -> list[str]:
    """Return the words to put before a command; skips the test where this machine grants no such view.

    As another user, reading stays allowed: the interpreter may lie in somebody's home.
    """
    words = ["unshare", "--mount", "bash", "-c", READ_ONLY, "bash", str(writable)]
    if uid is not None:
        words += [
            "setpriv", f"--reuid={uid}", "--regid=0", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
        ]  # fmt: skip
    missing = [tool for tool in ("unshare", "findmnt", "setpriv") if shutil.which(tool) is None]
    refusal = f"no {', '.join(missing)}" if missing else _refusal(tuple(words))
    if refusal:
        pytest.skip(f"this machine grants no view with a read-only root (as root it would): {refusal}")
    return words


@functools.cache
def _refusal(words: Sequence[str]) -> str:
    done = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=20)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """The only folder that may be written: for output, cache and temporary files."""
    folder = tmp_path / "writable"
    for name in ("output", "cache", "tmp", "work"):
        (folder / name).mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(folder / name, UID, 0)
    return folder


def modes(folder: Path) -> dict[str, set[int]]:
    """Return the modes of the folders and of the files below a folder."""
    found: dict[str, set[int]] = {"folders": set(), "files": set()}
    for path in folder.rglob("*"):
        if not path.is_symlink():
            found["folders" if path.is_dir() else "files"].add(path.stat().st_mode & 0o7777)
    return found


@pytest.mark.parametrize("home", [None, "/"])
def test_a_user_without_name_and_home_works_on_a_read_only_root(
    writable: Path, s3_server: Server, s3_prefix: str, home: str | None
) -> None:
    """With the output in a store and with one on disk; nothing listens, and umask 077 is kept."""
    before = confined(writable, uid=UID)
    own = {"TMPDIR": str(writable / "tmp"), "JOB_CACHE_DIR": str(writable / "cache")}
    own |= {"HOME": home} if home else {}
    store = {name: value for name, value in s3_server.environment.items() if name not in NOBODYS_OWN}
    store |= {"AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}
    output = f"{writable / 'output'}" if home else s3_prefix
    watched = watch(
        TINY, "--set", f"output.uri={output}", "--set", "runtime.threads=1", "--run-id", "r",
        cwd=writable / "work", environment=own if home else own | store, umask=0o077, before=before,
    )  # fmt: skip
    assert watched.finished.code == 0, watched.finished.stderr
    assert watched.finished.stderr == ""
    assert watched.ports == set()
    assert watched.looks > 20
    assert open_store(f"{output}/runs/tiny/r").stat("_SUCCESS") is not None
    for place in ("output", "cache", "tmp"):
        found = modes(writable / place)
        assert found["folders"] <= {0o700}
        assert found["files"] <= {0o600, 0o400, 0o444}  # downloads are kept as nobody may write them
    assert not [path for path in (writable / "tmp").rglob("*") if path.is_file()]


def test_a_read_only_output_is_told_with_advice(writable: Path) -> None:
    """The root is read-only for an output too: the place is named, and nothing is a defect."""
    watched = watch(
        TINY, "--set", "output.uri=/output-of-nobody", cwd=writable / "work",
        environment={"TMPDIR": str(writable / "tmp")}, before=confined(writable),
    )  # fmt: skip
    assert watched.finished.code == 3, watched.finished.stderr
    assert "/output-of-nobody" in watched.finished.stderr
    assert "output.uri" in watched.finished.stderr


def test_a_user_without_a_home_is_asked_for_a_folder(writable: Path, s3_server: Server) -> None:
    """Downloads need one where the output is in a store; HOME may be unset, or a place that is read-only."""
    before = confined(writable, uid=UID)
    for home in ({}, {"HOME": "/"}):
        environment = {**s3_server.environment, **home, "TMPDIR": str(writable / "tmp")}
        watched = watch(
            TINY, "--set", f"output.uri=s3://{s3_server.bucket}/homeless",
            cwd=writable / "work", environment=environment, before=before,
        )  # fmt: skip
        assert watched.finished.code == 3, watched.finished.stderr
        assert re.search(r"advice: set cache\.uri, or JOB_CACHE_DIR", watched.finished.stderr)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_no_umask_leaves_files_that_others_may_write(tmp_path: Path, umask: int) -> None:
    """Files are 0644 or stricter and folders 0755; the cache, which has photographs, is its owner's alone."""
    output = tmp_path / "output"
    code = (
        "import sys; from job import channels, cli; channels.guard();"
        f"sys.exit(cli.main(['dataset', 'make', {str(tmp_path / 'data')!r}, '--size', '64', '--train', '2',"
        " '--validation', '0', '--test', '0']) or cli.main(['run', "
        f"{TINY!r}, '--set', 'output.uri={output}', '--set', 'runtime.deadline_s=0.001']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], umask=umask, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 6, done.stderr
    allowed = 0o755 & ~umask
    assert modes(tmp_path)["folders"] <= {allowed, 0o700}
    assert modes(tmp_path)["files"] <= {0o644 & ~umask, 0o600, 0o444}
