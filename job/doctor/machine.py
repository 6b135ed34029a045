"""What this machine, or this container's share of it, has for a job."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from job import memory as memories
from job.device import available_cpus, processor_name
from job.doctor.findings import Finding

LEAST_MEMORY = 4 << 30
"""Bytes free for a job: the libraries alone take more than one of them."""
LEAST_SHARED = 1 << 30
"""A container's default is 64 MiB, at which workers that hand over batches die with a bus error."""
LEAST_DISK, TIGHT_DISK = 10**9, 10 * 10**9
LEAST_FILES = 10_000
LEAST_FREE_GPU = 0.5
"""Share of a GPU's memory that nobody else holds."""

Device = Literal["auto", "cpu", "cuda"]
GPUS = "start the container with --gpus all (Kubernetes: resources.limits of nvidia.com/gpu)"


def gpu(device: Device = "auto", root: Path = Path("/")) -> Iterator[Finding]:
    """Look for CUDA devices and compute on each; `device` says how much a spec cares."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(n_devices):
        yield from _one_gpu(index, root)
    if n_devices:
        return
    what, advice = _no_gpu([str(warning.message) for warning in told], root)
    if device == "cpu":
        yield Finding("ok", "gpu", f"{what}, and the spec asks for none")
    elif device == "cuda":
        yield Finding(
            "error", "gpu", f"{what}, and the spec asks for one", f'{advice}, or set runtime.device to "cpu"'
        )
    else:
        yield Finding("warning", "gpu", f"{what}: a job would run on the CPU", advice)


def cpu(threads: int | None = None) -> Iterator[Finding]:
    """Count the CPUs that this process may use, against the threads that a spec asks for."""
    here, all_cpus = available_cpus(), os.cpu_count() or 1
    share = f" of {all_cpus}" if here < all_cpus else ""
    yield Finding("ok", "cpu", f"{here}{share} CPUs may be used, {processor_name()}")
    if threads is not None and threads > here:
        advice = "lower it, or give the container more CPUs"
        yield Finding("warning", "cpu", f"runtime.threads is {threads}: more than there are CPUs", advice)


def memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Compare what is free with what a job takes, within the container's limit where it has one."""
    found = memories.memory(root)
    free, what = found.free, f"{_gib(found.free)} free {found.limit}, {_gib(found.total)}"
    if free >= LEAST_MEMORY:
        yield Finding("ok", "memory", what)
    else:
        advice = f"a job takes {_gib(LEAST_MEMORY)} and more: raise the limit, or end what holds it"
        yield Finding("warning", "memory", what, advice)


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:  # noqa: S108 - the place itself
    """Look how large /dev/shm is: containers get 64 MiB unless told otherwise."""
    advice = "start the container with --shm-size 2g (Kubernetes: an emptyDir of medium Memory at /dev/shm)"
    if not folder.is_dir():
        yield Finding("warning", "shared memory", f"there is no {folder}", advice)
        return
    size = shutil.disk_usage(folder).total
    if size >= LEAST_SHARED:
        yield Finding("ok", "shared memory", f"{folder} has {_gib(size)}")
    else:
        yield Finding("warning", "shared memory", f"{folder} has only {_mib(size)}", advice)


def temporary_folder() -> Iterator[Finding]:
    """Look whether temporary files can be written: a read-only container needs a place for them."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        advice = "mount a volume at /tmp (Kubernetes: an emptyDir), or set TMPDIR"
        yield Finding("error", "temporary files", "there is no folder that takes them", advice)
        return
    yield from disk("temporary files", folder)


def disk(part: str, folder: Path, *, needs_links: bool = False) -> Iterator[Finding]:
    """Write a file where `folder` is, or will be, and look how much fits; nothing is left behind."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        yield Finding("error", part, f"{there} is not a folder", "choose another place")
        return
    advice = "check owner and mode of the folder, or mount a volume there that this user may write"
    try:
        has_links = _writes(there)
    except OSError as error:
        yield Finding("error", part, f"{folder} cannot be written: {error.strerror}", advice)
        return
    usage, files = shutil.disk_usage(there), os.statvfs(there)
    what = f"{folder} can be written, {usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB free"
    more = "free some, or choose a larger disk"
    if usage.free < LEAST_DISK:
        yield Finding("error", part, what, more)
    else:
        is_tight = usage.free < TIGHT_DISK
        yield Finding("warning" if is_tight else "ok", part, what, more if is_tight else "")
    if files.f_files and files.f_favail < LEAST_FILES:
        yield Finding("warning", part, f"only {files.f_favail:,} more files fit (inodes)", more)
    if needs_links and not has_links:
        what = f"{folder} is on a disk without hard links: downloads take twice their size there"
        yield Finding("warning", part, what, "choose another disk with cache.uri or JOB_CACHE_DIR")


def _one_gpu(index: int, root: Path) -> Iterator[Finding]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    driver = _text(root / "sys/module/nvidia/version")
    versions = f"CUDA {torch.version.cuda}" + (f", driver {driver}" if driver else "")
    what = f"{properties.name}, {_gib(free)} of {_gib(total)} free, {versions}"
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        is_right = float((ones @ ones).sum()) == 64.0**3
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        capability = f"{properties.major}.{properties.minor}"
        advice = f"install a torch for compute capability {capability}, or update the driver"
        yield Finding("error", "gpu", f"{what}: it does not compute: {reason}", advice)
        return
    if not is_right:
        yield Finding("error", "gpu", f"{what}: it computes wrong sums", "do not use this device")
    elif free < LEAST_FREE_GPU * total:
        advice = "end what holds it (nvidia-smi shows it), or choose another with CUDA_VISIBLE_DEVICES"
        yield Finding("warning", "gpu", f"{what}: others hold the rest", advice)
    else:
        yield Finding("ok", "gpu", what)


def _no_gpu(told: Sequence[str], root: Path) -> tuple[str, str]:
    """Return why torch sees no CUDA device, as far as can be seen, and what to do."""
    import torch

    if torch.version.cuda is None:
        return "this torch was built without CUDA", "install torch with CUDA, or use the image for GPUs"
    if any("driver" in text and "too old" in text for text in told):
        advice = "update the driver, or install a torch for an older CUDA"
        return f"the NVIDIA driver is too old for CUDA {torch.version.cuda}", advice
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU", "unset it"
    if (root / "proc/driver/nvidia/version").exists():
        return "the machine has an NVIDIA driver, but torch sees no GPU", GPUS
    return "no GPU", GPUS


def _writes(folder: Path) -> bool:
    """Write a file and link it; return whether links work. Raises OSError where nothing can be written."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
        file = Path(name) / "file"
        file.write_bytes(b"x")
        try:
            file.with_name("link").hardlink_to(file)
        except OSError:
            return False
    return True


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
