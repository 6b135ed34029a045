"""Patience: a store that fails for a while is waited for; nothing else is."""

import pytest
import structlog

from job.errors import Denied, JobError, StoreFailure
from job.storage import patience
from job.storage.patience import patiently


class Away:
    """Fails so many times with what it is given, then answers; counts how often it was asked."""

    def __init__(self, times: int, error: type[JobError] = StoreFailure) -> None:
        self.times, self.error, self.asked = times, error, 0

    def __call__(self) -> int:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error("the store is away", advice="wait")
        return self.asked


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_S", 0.0)


@pytest.mark.parametrize("times", [0, 1, 5])
def test_a_failing_store_is_asked_again_and_each_failure_told(times: int) -> None:
    """What it answers in the end is returned."""
    with structlog.testing.capture_logs() as logs:
        assert patiently("rows", Away(times), structlog.get_logger()) == times + 1
    assert [(line["event"], line["what"]) for line in logs] == [("store.retrying", "rows")] * times


def test_a_refusal_is_not_waited_out() -> None:
    """No patience gives rights."""
    away = Away(5, Denied)
    with pytest.raises(Denied):
        patiently("rows", away, structlog.get_logger())
    assert away.asked == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the store's failure is raised, after more than one look."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    away = Away(10**9)
    with structlog.testing.capture_logs(), pytest.raises(StoreFailure, match="away"):
        patiently("rows", away, structlog.get_logger())
    assert away.asked > 1
