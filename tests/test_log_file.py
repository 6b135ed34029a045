"""The log on the disk has whole lines alone: on a full disk, and after a process that was killed."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.log_file import LogFile


@contextmanager
def no_file_above(n_bytes: int) -> Iterator[None]:
    """Within: the kernel cuts a write at that size and refuses the next one, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    """Nothing is buffered: a reader sees a line as soon as it is written, and those of earlier attempts."""
    (tmp_path / "log").write_text("before\n")
    log = LogFile(tmp_path / "log")
    log.write("wörd")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "before\nwörd\n"
    log.close()
    log.write("too late")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "before\nwörd\n"


def test_a_line_that_does_not_fit_is_left_out_whole(tmp_path: Path) -> None:
    """The part that fitted is taken back; once there is room, lines are written again."""
    log = LogFile(tmp_path / "log")
    log.write("first")
    with no_file_above(10):
        log.write("123456789")
        log.write("abc")
    log.write("last")
    log.close()
    assert (tmp_path / "log").read_text() == "first\nabc\nlast\n"


@given(whole=st.lists(st.text("ab", max_size=5), max_size=4), torn=st.text("ab", max_size=5))
def test_a_torn_line_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, whole: list[str], torn: str
) -> None:
    """Whatever a killed process left: its whole lines stay, the rest of a line goes."""
    path = tmp_path_factory.mktemp("torn") / "log"
    lines = "".join(f"{line}\n" for line in whole)
    path.write_text(lines + torn)
    log = LogFile(path)
    log.write("next")
    log.close()
    assert path.read_text() == f"{lines}next\n"
