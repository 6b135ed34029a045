import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.spec.showing import MAX_SHOWN, is_secret, show_line, show_path, show_value


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ((), ""),
        (("finetune", "net_arch", "pi", 0), "finetune.net_arch.pi[0]"),
        (("$schema",), "$schema"),
        (("data", "my key"), 'data["my key"]'),
        (("a", "x\n\x1b[31m"), 'a["x\\n\\u001b[31m"]'),
        (("", 3), '[""][3]'),
        (("AKIAABCDEFGHIJKLMNOP",), '["***"]'),
        (("a", *[0] * 1000), "a" + "[0]" * 26 + "[...0]" + "[0]" * 26),
    ],
)
def test_paths_read_as_users_write_them(path: tuple[str | int, ...], shown: str) -> None:
    """Plain keys are dotted, indices bracketed, and keys that could break a line or leak are quoted."""
    assert show_path(path) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (2.0, "2.0"),
        ("128", '"128"'),
        ({}, "an empty object"),
        ({"password": "x"}, "an object"),
        ([], "an empty list"),
        (["x"], "a list"),
        ("naïve 😀", '"naïve 😀"'),
        ("a\nb\x9b\u202e", '"a\\nb\\u009b\\u202e"'),
    ],
)
def test_values_are_shown_as_json_but_containers_only_named(value: object, shown: str) -> None:
    """A reader recognises what was written; an object may hold anything and is not printed."""
    assert show_value(value) == shown  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.text() | st.integers(-(10**400), 10**400) | st.floats())
def test_a_shown_value_is_short_and_printable(value: str | float) -> None:
    """At most 60 characters, none of which moves a cursor or starts a line."""
    shown = show_value(value)
    assert len(shown) <= MAX_SHOWN
    assert shown.isprintable()


@pytest.mark.parametrize(
    "key", ["password", "PASSWD", "aws_secret", "hf_token", "access_key", "accessKey", "api-key"]
)
def test_values_under_keys_that_name_secrets_are_hidden(key: str) -> None:
    """Nothing of the value is shown, however deep below the key it lies."""
    assert is_secret((key,))
    assert show_value("hunter2", ("storage", key, 0)) == "a hidden value"


def test_a_quoted_line_is_cut_around_its_column_and_left_out_when_it_may_leak() -> None:
    """The wrong place stays in view; a line with a secret's key, or below one, is not quoted."""
    line = "x" * 500 + "HERE" + "y" * 500
    assert "HERE" in show_line(line, 501, ())
    assert len(show_line(line, 501, ())) <= MAX_SHOWN + 2
    assert show_line('  "n": 1 "m"', 10, ()) == '"n": 1 "m"'
    assert show_line('"password": "x" 1', 17, ()) == ""
    assert show_line('"hunter2" "x"', 11, ("tokens", 0)) == ""
    assert show_line('"uri": "s3://a:b@c" 1', 21, ()) == ""
