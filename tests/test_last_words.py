"""What a run that fails says."""

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import last_words
from job.errors import InputError, Interrupted, JobError
from job.last_words import VARIABLE, Failure, say, termination_message
from job.logs import Output
from job.spec.problems import Problem, SpecProblems

KEY = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The termination log of a Pod."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "termination-log"))
    return tmp_path / "termination-log"


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def broken() -> BaseException:
    """Return a defect that was met inside of the program, with a secret in a local variable."""
    secret, nothing = KEY, Path("x")
    try:
        termination_message(nothing)  # type: ignore[arg-type]
    except AttributeError as error:
        assert secret
        return error
    raise AssertionError("it should fail")


@given(st.text(max_size=6000), st.text(max_size=6000))
def test_the_message_is_short_text_whose_first_line_says_it(message: str, advice: str) -> None:
    """Under 4,096 bytes of UTF-8, cut between characters, nothing in it that steers a terminal."""
    text = termination_message(Failure("InputError", message, advice, 3, ""))
    data = text.encode()
    assert len(data) < 4096
    assert text.startswith("InputError (exit code 3): ")
    assert all(line.isprintable() for line in text.split("\n"))


def test_what_is_cut_is_the_message_and_not_the_advice() -> None:
    """A hundred problems of a spec leave room for what to do."""
    text = termination_message(Failure("SpecError", "ä" * 5000, "mend it", 2, "job/x.py:1"))
    assert text.endswith("ä…\nadvice: mend it\nat: job/x.py:1\n")
    assert 4090 <= len(text.encode()) < 4096
    assert termination_message(Failure("SpecError", "a\ud800\nb\x1b[2J", "", 2, "")).count("\n") == 2


def test_every_channel_hears_of_it_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One event, one error on the standard error, one message, all with cause and advice; no traceback."""
    stream = io.StringIO()
    output = Output(stream=stream)
    error = InputError("data.uri: /x does not exist", advice="set data.uri")
    last_words.log(error, output)
    assert say(error, output) == 3
    (event,) = lines_of(stream)
    assert (event["level"], event["event"], event["error"]) == ("error", "job.failed", "InputError")
    assert (event["message"], event["advice"], event["exit_code"]) == (str(error), error.advice, 3)
    assert capsys.readouterr().err == "error: data.uri: /x does not exist\n  advice: set data.uri\n"
    message = "InputError (exit code 3): data.uri: /x does not exist\nadvice: set data.uri\n"
    assert place.read_text() == message


def test_an_interruption_is_a_warning(place: Path) -> None:
    """To be stopped is no fault."""
    stream = io.StringIO()
    assert say(Interrupted("stopped"), Output(stream=stream)) == 75
    assert lines_of(stream)[0]["level"] == "warning"


def test_a_defect_shows_frames_to_people_and_its_place_to_programs(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type, message and line in every channel; frames on the standard error alone; locals nowhere."""
    stream = io.StringIO()
    assert say(broken(), Output(stream=stream)) == 70
    (event,) = lines_of(stream)
    assert event["error"] == "AttributeError"
    assert str(event["at"]).startswith("job/last_words.py:")
    errors = capsys.readouterr().err
    assert "Traceback (most recent call last)" in errors
    assert "please report it" in errors
    assert "Traceback" not in stream.getvalue() + place.read_text()
    assert str(event["at"]) in place.read_text()
    assert KEY not in errors + stream.getvalue() + place.read_text()


def test_secrets_are_in_no_channel(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment holds, and what looks like a key, is hidden; what is around it is not."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    stream = io.StringIO()
    say(InputError(f"refused: {KEY}", advice=f"not {KEY}"), Output(stream=stream))
    say(RuntimeError(f"s3://me:{KEY}@host/x"), Output(stream=stream))
    said = stream.getvalue() + "".join(capsys.readouterr()) + place.read_text()
    assert "refused: ***" in said
    assert KEY not in said


def test_a_spec_s_problems_are_shown_as_compilers_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a problem, each with its place, before the advice."""
    problems = [Problem("a.json", line, 1, "seed", "wrong") for line in (1, 2)]
    assert last_words.explain(SpecProblems(problems)) == 2
    first, second, advice = capsys.readouterr().err.splitlines()
    assert (first, second) == ("a.json:1:1: seed: wrong", "a.json:2:1: seed: wrong")
    assert "validate" in advice


@pytest.mark.parametrize("kind", ["folder", "nowhere", "pipe"])
def test_a_termination_log_that_cannot_be_written_changes_nothing(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the code, not the other channels, and a pipe that nobody reads holds nobody."""
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        monkeypatch.setenv(VARIABLE, str(place / "no" / "such"))
    stream = io.StringIO()
    assert say(JobError("x"), Output(stream=stream)) == 70
    assert len(lines_of(stream)) == 1
    assert "error: x" in capsys.readouterr().err


def test_without_a_name_the_message_goes_where_kubernetes_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that file is there, in place of what it held; elsewhere none is made."""
    mount = tmp_path / "dev-termination-log"
    monkeypatch.setattr(last_words, "KUBERNETES", mount)
    say(InputError("x"), Output(stream=io.StringIO()))
    assert not mount.exists()
    mount.write_text("y" * 100)
    say(InputError("x"), Output(stream=io.StringIO()))
    assert mount.read_text() == "InputError (exit code 3): x\n"


def test_an_error_of_another_kind_says_where_it_was_met(tmp_path: Path) -> None:
    """A file in the way may be a defect of ours: the line tells."""
    from job.storage.local import write_atomic

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        write_atomic(tmp_path / "file" / "x", b"")
    failure = Failure.of(caught.value)
    assert failure.kind == "InputError"
    assert failure.at.startswith("job/storage/local.py:")
    assert Failure.of(InputError("x")).at == ""
