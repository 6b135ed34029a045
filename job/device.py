"""The machine: which device computes, with how many CPU threads."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from job import container
from job.errors import DeviceError
from job.spec.runtime import RuntimeSpec


@dataclass(frozen=True)
class Machine:
    """What the job runs on. `device` is `cpu` or `cuda`; `device_name` is for people."""

    device: str
    device_name: str
    threads: int


def prepare(runtime: RuntimeSpec) -> Machine:
    """Choose the device, fix the thread count and make torch deterministic; raises `DeviceError`."""
    import torch

    cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not cuda:
        raise DeviceError(
            'runtime.device is "cuda" but torch sees no CUDA device',
            advice='start the container with --gpus all, or set runtime.device to "auto" or "cpu"',
        )
    device = "cuda" if cuda and runtime.device != "cpu" else "cpu"
    threads = runtime.threads or available_cpus()
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms does, which imports torch's compiler: seconds, and nothing is compiled.
    torch.set_deterministic_debug_mode("warn")
    # Nothing here reads memory that it did not write: filling it first costs a GPU 6 % of the table.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    name = torch.cuda.get_device_name() if device == "cuda" else processor_name()
    return Machine(device, name, threads)


def without_accelerator(machine: Machine, runtime: RuntimeSpec) -> str | None:
    """Say that everything is computed on the CPU where that may not be meant, else None."""
    import torch

    if machine.device != "cpu" or runtime.device == "cpu":
        return None
    if torch.version.cuda is not None:
        advice = "start the container with --gpus all (a Pod: request nvidia.com/gpu)"
    elif container.is_image():
        advice = "this image is for the CPU alone: take the one for CUDA"
    else:
        return None  # a laptop on which the CPU build was installed
    return (
        "Without a GPU everything is computed on the CPU, which takes a large model hours;"
        f' {advice}, or set runtime.device to "cpu" if that is meant'
    )


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, the architecture's name where the kernel does not say (ARM)."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = (
        value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name.strip() == "model name"
    )
    return next(filter(None, models), "") or platform.processor() or platform.machine()


@contextmanager
def one_thread() -> Iterator[int]:
    """Within: torch computes on one CPU thread, so that sums have the same bits on every machine.

    Gives the number of threads that it had, and has again afterwards.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def threads_of_one_core() -> Iterator[Callable[[], None]]:
    """Within: threads that begin with the function given here compute on one core each; the caller as before.

    torch keeps the number by thread, and for threads to come: that one is what it was again afterwards.
    """
    import torch

    n_threads = torch.get_num_threads()
    try:
        yield partial(torch.set_num_threads, 1)
    finally:
        torch.set_num_threads(n_threads)


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and the cgroup's quota in a container."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123 - a kernel file, not a path of ours
            quota, period = file.read().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cpus)
