import json

from job.doctor import Finding, exit_code, to_json, to_text
from job.doctor.findings import without

FINE = Finding("ok", "cpu", "2 CPUs may be used")
WARNED = Finding("warning", "memory", "0.5 GiB free", "raise the limit")
BROKEN = Finding("error", "output.uri", "there is no such bucket", "create it")


def test_text_says_severity_part_and_advice() -> None:
    """A line a finding, its advice below it, the count at the end."""
    assert to_text([FINE, WARNED, BROKEN]).splitlines() == [
        "ok       cpu: 2 CPUs may be used",
        "warning  memory: 0.5 GiB free",
        "         -> raise the limit",
        "error    output.uri: there is no such bucket",
        "         -> create it",
        "1 error, 1 warning",
    ]


def test_text_cannot_steer_a_terminal() -> None:
    """A bucket's or a file's name is shown escaped, on one line."""
    text = to_text([Finding("ok", "data.uri", "a\x1b[2Jb\nerror    c: d")])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_json_has_every_field() -> None:
    """Programs read the same findings and whether any is an error."""
    answer = json.loads(to_json([FINE, BROKEN]))
    assert answer["healthy"] is False
    assert answer["findings"][1] == {
        "severity": "error", "part": "output.uri", "what": "there is no such bucket", "advice": "create it",
    }  # fmt: skip
    assert json.loads(to_json([WARNED]))["healthy"] is True


def test_only_errors_fail() -> None:
    """A warning is for a person to weigh: a job would run."""
    assert exit_code([FINE, WARNED]) == 0
    assert exit_code([FINE, BROKEN, WARNED]) == 3


def test_secrets_are_hidden_wherever_they_stand() -> None:
    """The longest goes first, so that no part of it is left beside a shorter one."""
    leaky = Finding("error", "canary-1", "says canary-1-and-more", "not canary-1")
    (clean,) = without([leaky], {"canary-1", "canary-1-and-more"})
    assert (clean.part, clean.what, clean.advice) == ("***", "says ***", "not ***")
