"""A little fuzzing each time: whatever the bytes, a file is read or refused in words, never a defect."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import fuzz as fuzzing
from tests.hostile.fuzz import attempt, fuzz
from tests.hostile.targets import TARGETS

FILES = 15
"""A door; `make fuzz` tries thousands."""
DOCUMENTS = sorted(name for name, target in TARGETS.items() if target.file.endswith(".json"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_are_read_or_refused(name: str) -> None:
    """The same files each time: what they find is a defect that somebody brought in."""
    assert fuzz(name, seed=0, count=FILES) == []


@pytest.mark.parametrize("name", DOCUMENTS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_any_json_and_any_bytes_are_refused_in_words(tmp_path: Path, name: str, data: bytes) -> None:
    """Also documents that have nothing to do with ours."""
    target = TARGETS[name]
    target.prepare(tmp_path)
    assert attempt(target, tmp_path, data) == ""


def test_the_fuzzer_finds_what_there_is_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that trusts what it is given, as the readers of this program must not."""

    def trusting(path: Path) -> object:
        return json.loads(path.read_bytes())["holder"].strip()

    monkeypatch.setitem(fuzzing.TARGETS, "lease", replace(TARGETS["lease"], read=trusting))  # type: ignore[arg-type]
    kinds = {
        finding.what.strip().splitlines()[-1].split(":")[0] for finding in fuzz("lease", seed=0, count=200)
    }
    assert {"KeyError", "TypeError", "json.decoder.JSONDecodeError"} & kinds
