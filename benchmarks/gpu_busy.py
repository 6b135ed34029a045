"""The share of a time in which a CUDA device had something to do: a kernel or a copy, by CUPTI."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

R = TypeVar("R")


def busy(call: Callable[[], R]) -> tuple[float, R]:
    """Return the share of a call's time in which the device was at work, and what the call gives."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        started = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        took = time.perf_counter() - started
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in trace.events()
        if event.device_type == DeviceType.CUDA
    )
    covered, reached = 0.0, 0.0
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / 1e6 / took, result
