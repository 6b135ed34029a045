"""What is different in the image: where results stay when nobody mounts a folder, and who may write where.

The image sets `JOB_IMAGE` to its version; elsewhere nothing of this is said.
"""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "JOB_IMAGE"
MOUNTS = Path("/proc/self/mountinfo")


def is_image() -> bool:
    """Return whether the program runs in its image."""
    return bool(os.environ.get(VARIABLE))


def results_note(run_folder: Path, root: Path) -> str | None:
    """Say how to keep a run's results below the output folder `root`; None where they outlive it."""
    if not is_image() or not is_inside(run_folder):
        return None
    return f"results are inside this container at {run_folder}; add {keeping(root)} to keep them"


def keeping(root: Path) -> str:
    """Return the words of `docker run` that keep an output folder."""
    return f'-v "$PWD/output:{root}" --user "$(id -u):$(id -g)"'


def is_inside(path: Path, mounts: Path | None = None) -> bool:
    """Return whether a path lies on the container's own layer or in its memory, and goes when it goes."""
    best, kind = Path("/"), ""
    for line in (mounts or MOUNTS).read_text(errors="replace").splitlines():
        # proc_pid_mountinfo(5): the fifth field is where, in octal escapes; the kind follows a lone dash.
        fields, _, source = line.partition(" - ")
        where = Path(fields.split()[4].encode().decode("unicode_escape"))
        if path.is_relative_to(where) and len(where.parts) >= len(best.parts):
            best, kind = where, source.split()[0]
    return best == Path("/") or kind == "tmpfs"


def writable_at(place: str) -> str:
    """Say how a place becomes one that can be written: a folder of the user, mounted there."""
    there = nearest(place)
    path, output = Path(place).absolute(), Path("output").absolute()
    if path.is_relative_to(output):
        there = output
    elif is_inside(there) and path != there:
        there = there / path.relative_to(there).parts[0]  # what would have been made
    return (
        f"add {keeping(there)} to `docker run`, with a folder that is yours (make it first, or docker makes"
        " it root's; `chown` gives you one that is there)"
    )


def nearest(place: str) -> Path:
    """Return a place, or the nearest folder above it that this process can see."""
    path = Path(place).absolute()
    # Not Path.exists, which raises where a folder may not be entered.
    return next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)  # noqa: PTH110


def whose(place: str) -> str:
    """Say whose a place is and who asks, after the words about it; nothing where that cannot be told."""
    with suppress(OSError):
        path = nearest(place)
        facts = path.stat()
        return (
            f" ({path} belongs to {facts.st_uid}:{facts.st_gid}, mode {facts.st_mode & 0o7777:o};"
            f" this process is {os.geteuid()}:{os.getegid()})"
        )
    return ""
