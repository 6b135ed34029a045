"""What code of others prints never reaches the standard output, whoever else is at work."""

import logging
import sys
import threading

import pytest

from job.segmenters.chatter import CHATTER, kept_out


def test_prints_go_to_the_debug_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the way to print."""
    with caplog.at_level(logging.DEBUG, CHATTER.name), kept_out():
        print("one")  # noqa: T201
        sys.stdout.write("two\n")
    assert capsys.readouterr().out == ""
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


def test_the_last_of_several_threads_gives_the_output_back() -> None:
    """In whatever order they leave."""
    before = sys.stdout
    within, leave = threading.Event(), threading.Event()

    def other() -> None:
        with kept_out():
            within.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with kept_out():
        thread.start()
        assert within.wait(10)
    assert sys.stdout is not before
    leave.set()
    thread.join(10)
    assert sys.stdout is before
