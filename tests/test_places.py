"""Where a job works, and the places that it refuses before anything slow begins."""

from pathlib import Path
from typing import Any

import pytest

from job.errors import InputError, SpecError
from job.places import Places, default_cache
from job.spec.job import JobSpec
from job.spec.loading import load
from job.spec.problems import SpecProblems


def places(**sections: Any) -> Places:
    return Places.of(JobSpec.model_validate({"name": "x", **sections}))


def test_a_local_output_holds_its_own_cache(tmp_path: Path) -> None:
    """cache/ beside the runs, or the folder that the spec names."""
    found = places(output={"uri": str(tmp_path / "out")})
    assert (found.root, found.cache, found.is_remote) == (tmp_path / "out", tmp_path / "out/cache", False)
    found = places(output={"uri": str(tmp_path / "out")}, cache={"uri": str(tmp_path / "c")})
    assert found.cache == tmp_path / "c"


def test_an_output_in_a_store_has_a_working_copy_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the cache, apart for each bucket and prefix; the cache is the variable's or the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    found = places(output={"uri": "s3://bucket/some/where/"})
    assert found.cache == tmp_path / "user" / "segmenter-rl-job"
    assert found.root == found.cache / "work" / "bucket" / "some" / "where"
    assert (found.store.uri, found.is_remote) == ("s3://bucket/some/where", True)
    monkeypatch.setenv("JOB_CACHE_DIR", str(tmp_path / "variable"))
    assert places(output={"uri": "s3://bucket/p"}).cache == tmp_path / "variable"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/a",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/./a",
        "S3://bucket/a",
        "gs://bucket/a",
    ],
)
def test_places_that_stores_read_in_different_ways_are_spec_errors(uri: str) -> None:
    """Before any request: exit code 2."""
    with pytest.raises(SpecError):
        places(output={"uri": uri})


def test_the_cache_lies_on_this_machine(tmp_path: Path) -> None:
    """A store is no place for it, and neither is a file; the message names what to set."""
    with pytest.raises(SpecError, match=r"cache\.uri"):
        places(cache={"uri": "s3://bucket/cache"})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as refused:
        places(cache={"uri": str(tmp_path / "file")}).require_cache()
    assert "cache.uri" in refused.value.advice


@pytest.mark.parametrize(
    ("output", "is_refused"),
    [("s3://b-1/data", True), ("s3://b-1/data/out", True), ("s3://b-1", False), ("s3://b-1/data2", False)],
)
def test_results_are_not_written_among_the_inputs(tmp_path: Path, output: str, is_refused: bool) -> None:
    """They would be taken for images and shards by the next run."""
    spec = tmp_path / "s.json"
    spec.write_text('{"name": "x", "data": {"uri": "s3://b-1/data/"}}')
    if not is_refused:
        assert load(str(spec), overrides=[f"output.uri={output}"]).spec.output.uri == output
        return
    with pytest.raises(SpecProblems, match=r"lies in data\.uri"):
        load(str(spec), overrides=[f"output.uri={output}"])


def test_the_cache_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """It has photographs."""
    places(cache={"uri": str(tmp_path / "some" / "cache")}).require_cache()
    assert (tmp_path / "some" / "cache").stat().st_mode & 0o777 == 0o700


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters give users that the machine does not know."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)
    with pytest.raises(InputError) as refused:
        default_cache()
    assert "JOB_CACHE_DIR" in refused.value.advice
