"""The machine, as the kernel's files and torch describe it."""

import tempfile
import warnings
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from job.doctor import Finding, machine

MEMINFO = "MemTotal:       33554432 kB\nMemFree:         1000000 kB\nMemAvailable:   16777216 kB\n"
GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def only(findings: object) -> Finding:
    (found,) = findings  # type: ignore[misc]
    assert isinstance(found, Finding)
    return found


def test_memory_without_a_limit_is_the_machines(tmp_path: Path) -> None:
    """What the kernel calls available of the total; a limit of `max`, or the largest number, is none."""
    unlimited = {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "1"}
    root = write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/", **unlimited})
    assert only(machine.memory(root)) == Finding("ok", "memory", "16.0 GiB free of the machine, 32.0 GiB")
    old = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": str(GIB)}
    write(tmp_path, {f"sys/fs/cgroup/memory/{name}": text for name, text in old.items()})
    write(tmp_path, {"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/pod/a"})
    assert only(machine.memory(root)).what == "16.0 GiB free of the machine, 32.0 GiB"


def test_memory_is_what_the_container_may_use(tmp_path: Path) -> None:
    """The tightest of the groups around the process counts; cached files could be dropped and are free."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/container",
        "sys/fs/cgroup/pod/memory.max": str(8 * GIB),
        "sys/fs/cgroup/pod/memory.current": str(7 * GIB),
        "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {6 * GIB}",
        "sys/fs/cgroup/pod/container/memory.max": "max",
        "sys/fs/cgroup/pod/container/memory.current": "1",
    }
    root = write(tmp_path, files)
    assert only(machine.memory(root)).what == "7.0 GiB free of the container's limit, 8.0 GiB"
    write(root, {"sys/fs/cgroup/pod/memory.stat": "inactive_file 0"})
    found = only(machine.memory(root))
    assert found.severity == "warning"
    assert found.what.startswith("1.0 GiB free")
    assert "raise the limit" in found.advice


def test_memory_of_the_older_control_groups(tmp_path: Path) -> None:
    """Version 1 has other names for the same figures; its path may not be visible from inside."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:memory:/docker/not/visible",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(6 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}",
    }
    assert only(machine.memory(write(tmp_path, files))).what == (
        "5.0 GiB free of the container's limit, 6.0 GiB"
    )


def test_this_machine_has_memory() -> None:
    """The real kernel's files are understood."""
    assert "GiB free" in only(machine.memory()).what


def test_a_small_shared_memory_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's default of 64 MiB, or none at all, names the option that enlarges it."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(64 << 20, 0, 64 << 20))
    small, none = only(machine.shared_memory(tmp_path)), only(machine.shared_memory(tmp_path / "none"))
    assert (small.severity, none.severity) == ("warning", "warning")
    assert "only 64 MiB" in small.what
    assert "--shm-size" in small.advice
    assert "--shm-size" in none.advice
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(2 * GIB, 0, GIB))
    assert only(machine.shared_memory(tmp_path)).severity == "ok"


def test_a_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    """A folder that is not there yet is tried at the nearest that is, and nothing stays behind."""
    findings = list(machine.disk("output", tmp_path / "a" / "b", needs_links=True))
    assert [one.part for one in findings] == ["output"] * len(findings)
    assert f"{tmp_path}/a/b can be written" in findings[0].what
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a folder's place, or a folder of somebody else's."""
    file = tmp_path / "file"
    file.write_text("")
    assert only(machine.disk("cache", file / "below")).severity == "error"

    def refuse(**place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    refused = only(machine.disk("output", tmp_path))
    assert refused.what == f"{tmp_path} cannot be written: Permission denied"
    assert "owner and mode" in refused.advice


@pytest.mark.parametrize(("free", "severity"), [(10**8, "error"), (5 * 10**9, "warning"), (10**11, "ok")])
def test_a_full_disk_is_told_before_the_job_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, severity: str
) -> None:
    """Less than a job can do with is an error, less than is comfortable a warning."""
    usage = SimpleNamespace(total=10**12, free=free)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    assert next(iter(machine.disk("output", tmp_path))).severity == severity


def test_a_disk_without_links_is_named_where_they_save_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloads are linked; the output needs none."""

    def refuse(link: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    cache = list(machine.disk("cache", tmp_path, needs_links=True))
    assert "without hard links" in cache[-1].what
    assert all("hard links" not in one.what for one in machine.disk("output", tmp_path))


def test_more_threads_than_cpus_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec's number is compared with what this process may use."""
    monkeypatch.setattr(machine, "available_cpus", lambda: 2)
    assert [one.severity for one in machine.cpu(2)] == ["ok"]
    found = list(machine.cpu(8))
    assert [one.severity for one in found] == ["ok", "warning"]
    assert "runtime.threads is 8" in found[1].what


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A torch that was built for CUDA and finds nothing."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("device", "severity"), [("auto", "warning"), ("cuda", "error"), ("cpu", "ok")])
def test_no_gpu_matters_as_much_as_the_spec_says(
    with_cuda: pytest.MonkeyPatch, tmp_path: Path, device: machine.Device, severity: str
) -> None:
    """A spec that demands one cannot run, one that asks for none needs no advice."""
    found = only(machine.gpu(device, tmp_path))
    assert found.severity == severity
    assert ("--gpus all" in found.advice) == (device != "cpu")


def test_the_reason_for_no_gpu_is_looked_for(with_cuda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver without a device, a hidden device, an old driver, a torch without CUDA: each is named."""
    write(tmp_path, {"proc/driver/nvidia/version": "NVRM version: 1"})
    assert "has an NVIDIA driver" in only(machine.gpu(root=tmp_path)).what
    with_cuda.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides" in only(machine.gpu(root=tmp_path)).what

    def complain() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    with_cuda.setattr(torch.cuda, "is_available", complain)
    old = only(machine.gpu(root=tmp_path))
    assert "too old for CUDA 12.8" in old.what
    assert "update the driver" in old.advice
    with_cuda.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in only(machine.gpu(root=tmp_path)).what


@pytest.mark.parametrize(
    ("free", "device", "severity"), [(70, "cpu", "ok"), (10, "cpu", "warning"), (70, "nowhere", "error")]
)
def test_a_gpu_is_computed_on(
    with_cuda: pytest.MonkeyPatch, tmp_path: Path, free: int, device: str, severity: str
) -> None:
    """Its memory and driver are told; one that others fill, or that cannot compute, is not fine."""
    ones = torch.ones
    properties = SimpleNamespace(name="Some GPU", major=9, minor=0)
    with_cuda.setattr(torch.cuda, "is_available", lambda: True)
    with_cuda.setattr(torch.cuda, "device_count", lambda: 1)
    with_cuda.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    with_cuda.setattr(torch.cuda, "mem_get_info", lambda index: (free * GIB, 80 * GIB))
    with_cuda.setattr(torch, "ones", lambda *shape, **where: ones(*shape, device=device))
    write(tmp_path, {"sys/module/nvidia/version": "570.1"})
    found = only(machine.gpu(root=tmp_path))
    assert found.severity == severity
    assert found.what.startswith(f"Some GPU, {free}.0 GiB of 80.0 GiB free, CUDA 12.8, driver 570.1")
    assert bool(found.advice) == (severity != "ok")
