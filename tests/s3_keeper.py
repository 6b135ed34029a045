"""Keeps one SeaweedFS server alive for exactly as long as somebody holds the lock of its users.

    python tests/s3_keeper.py FOLDER USERS_LOCK WEED [ARGUMENT ...]

It leaves its parent's session at once, so that neither Ctrl-C nor the end of the test process that happened
to start it takes the server from the other processes. Every user holds a shared `flock` on USERS_LOCK, which
the kernel releases however that process ends; the server is stopped when the lock can be taken exclusively,
that is when the last user is gone. FOLDER/server.json is deleted when the server has ended, and FOLDER itself
unless the server ended by itself: then its log stays. Standard library alone: it lives as long as
the tests.
"""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

LOOK_EVERY_S = 0.1
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def keep(folder: Path, users_lock: Path, command: list[str]) -> None:
    """Run `command`, with its output in `folder`/log, until nobody uses it or it ends."""
    with (folder / "log").open("ab") as log, users_lock.open("a") as users:
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            preexec_fn=_die_with_the_keeper if sys.platform == "linux" else None,
        )  # fmt: skip
        try:
            while server.poll() is None and not _is_unused(users):
                time.sleep(LOOK_EVERY_S)
            ended_by_itself = server.poll() is not None
        finally:
            # Whoever comes now waits until the lock is free, finds no server.json and starts another server.
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)  # SIGTERM takes 3 s, for data that are thrown away
            server.wait()
            _remove_sockets(command)
            (folder / "server.json").unlink(missing_ok=True)
        if ended_by_itself:
            log.write(f"the server ended by itself with exit status {server.returncode}\n".encode())
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_unused(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_sockets(command: list[str]) -> None:
    """Remove the Unix sockets that SeaweedFS makes beside each port, under names that no option changes."""
    ports = re.findall(r"port[\w.]*=(\d+)", " ".join(command))
    for socket in Path("/tmp").glob("seaweedfs-*.sock"):  # noqa: S108
        if socket.stem.rpartition("-")[2] in ports:
            socket.unlink(missing_ok=True)


def _die_with_the_keeper() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # the caller waits for this process alone and is left without a child to reap
    os.setsid()
    keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
