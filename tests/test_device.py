"""The machine."""

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from job.device import (
    Machine,
    available_cpus,
    prepare,
    processor_name,
    threads_of_one_core,
    without_accelerator,
)
from job.errors import DeviceError
from job.spec.runtime import RuntimeSpec


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_threads_are_fixed_and_arithmetic_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal digests need equal threads: the number asked for is what torch gets."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = prepare(RuntimeSpec(threads=3))
    assert (machine.device, machine.threads, torch.get_num_threads()) == ("cpu", 3, 3)
    assert torch.are_deterministic_algorithms_enabled()
    assert prepare(RuntimeSpec()).threads == available_cpus()


def test_cuda_that_is_not_there_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back in silence would cost a night."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device") as caught:
        prepare(RuntimeSpec(device="cuda"))
    assert "--gpus" in caught.value.advice


def test_cuda_is_taken_by_itself_and_left_alone_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes it, `cpu` does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert prepare(RuntimeSpec(threads=1)).device_name == "Some GPU"
    assert prepare(RuntimeSpec(device="cpu", threads=1)).device == "cpu"


@pytest.mark.parametrize(
    ("build", "in_image", "asked", "device", "advice"),
    [
        ("13.0", False, "auto", "cpu", "--gpus all"),
        ("13.0", True, "auto", "cpu", "--gpus all"),
        (None, True, "auto", "cpu", "take the one for CUDA"),
        (None, False, "auto", "cpu", None),
        ("13.0", True, "cpu", "cpu", None),
        ("13.0", True, "auto", "cuda", None),
    ],
)
def test_work_on_the_cpu_that_may_not_be_meant_is_told(
    monkeypatch: pytest.MonkeyPatch,
    build: str | None,
    in_image: bool,
    asked: str,
    device: str,
    advice: str | None,
) -> None:
    """A CUDA build without a GPU and the CPU image say what to do; a laptop, and who asked, hear nothing."""
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setenv("JOB_IMAGE", "0.1.0" if in_image else "")
    told = without_accelerator(Machine(device, "x", 1), RuntimeSpec.model_validate({"device": asked}))
    assert (told is None) == (advice is None)
    if told is not None and advice is not None:
        assert advice in told
        assert 'set runtime.device to "cpu"' in told


def test_a_processor_has_the_name_that_its_kernel_gives(tmp_path: Path) -> None:
    """The first core's model; the architecture where none is told."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2.10GHz: v2\n\nmodel name\t: X\n"
    )
    assert processor_name(cpuinfo) == "Some CPU @ 2.10GHz: v2"
    architecture = platform.processor() or platform.machine()
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert processor_name(cpuinfo) == architecture
    assert processor_name(tmp_path / "nowhere") == architecture


def test_no_more_cpus_than_the_process_may_use() -> None:
    """Within its affinity, and at least one."""
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def test_threads_of_one_core_leave_the_caller_and_later_threads_as_they_were() -> None:
    """torch keeps its number of threads by thread, and one for threads to come."""
    torch.set_num_threads(3)

    def number(start: Callable[[], None] = lambda: None) -> int:
        with ThreadPoolExecutor(1, initializer=start) as pool:
            return pool.submit(torch.get_num_threads).result()

    with threads_of_one_core() as start:
        assert number(start) == 1
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3
    assert number() == 3
