"""What a stage is: taken over where it is finished, gone on with where it was interrupted."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job.actions import PostProcess
from job.device import Machine
from job.errors import IntegrityError, Interrupted, TryAgain
from job.inputs import Inputs
from job.logs import Output
from job.progress import SILENT
from job.rows import RowCache
from job.spec.job import JobSpec
from job.stages.stage import Stage, StageContext, action_space, clear, compute, find
from job.storage.local import exclusive, sha256_file
from tests.segmenters.fakes import cache_of

KEY = "0123abcd" * 4
Run = Callable[[StageContext], Mapping[str, str]]


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    spec = JobSpec.model_validate({"name": "x"})
    inputs = Inputs(None, None, tmp_path, tmp_path / "network", None)
    space = action_space(spec)
    log = Output(stream=io.StringIO()).log
    return StageContext(
        spec,
        inputs,
        {},
        Machine("cpu", "some CPU", 1),
        space,
        cache_of(tmp_path, space.prompts)[0],
        RowCache(tmp_path),
        SILENT,
        log,
    )


def stage_of(
    run: Run, reads: Any = None, revision: int = 1, libraries: tuple[str, ...] = ("numpy",)
) -> Stage:
    return Stage("table", revision, lambda _: {"seed": 0} if reads is None else reads, libraries, run)


class Work:
    """A stage's work: counts itself, writes a file, and may die on the way."""

    def __init__(self) -> None:
        self.calls = 0
        self.died_of: BaseException | None = None

    def __call__(self, context: StageContext) -> Mapping[str, str]:
        self.calls += 1
        (context.folder / "half").write_text("half")
        counter = context.scratch / "attempts"
        counter.write_text((counter.read_text() if counter.exists() else "") + "x")
        if self.died_of is not None:
            raise self.died_of
        (context.folder / "table").write_text(counter.read_text())
        return {"table": "digest"}


def test_what_was_made_of_data_that_a_disk_lost_is_not_kept(context: StageContext, tmp_path: Path) -> None:
    """The stage waits until its inputs are on the disk, and is none if they are not."""
    work = Work()

    def lost() -> None:
        raise TryAgain("the disk could not keep it")

    of_lost = replace(context, inputs=replace(context.inputs, settle=lost))
    with pytest.raises(TryAgain, match="could not keep"):
        compute(stage_of(work), of_lost, tmp_path / "s", KEY)
    assert find("table", tmp_path / "s", KEY) is None
    assert not compute(stage_of(work), context, tmp_path / "s", KEY).reused
    assert work.calls == 2


def test_a_finished_stage_is_never_computed_again(context: StageContext, tmp_path: Path) -> None:
    """The second caller gets the first one's files and digests, marked as reused."""
    work = Work()
    first = compute(stage_of(work), context, tmp_path / "s", KEY)
    again = compute(stage_of(work), context, tmp_path / "s", KEY)
    assert work.calls == 1
    assert (first.reused, again.reused) == (False, True)
    assert replace(again, reused=False) == first == replace(first, outputs={"table": "digest"})
    assert first.folder == tmp_path / "s" / KEY
    assert sorted(path.name for path in first.folder.iterdir()) == ["done.json", "half", "table"]
    assert find("table", tmp_path / "s", KEY) == again


def test_an_interrupted_stage_leaves_no_result_and_goes_on_from_its_scratch(
    context: StageContext, tmp_path: Path
) -> None:
    """Output starts afresh, scratch survives, and both are gone once the stage is finished."""
    work, root = Work(), tmp_path / "s"
    work.died_of = Interrupted("stop")
    for _ in range(2):
        with pytest.raises(Interrupted):
            compute(stage_of(work), context, root, KEY)
        assert find("table", root, KEY) is None
    (root / f"{KEY}.partial" / "out" / "stale").write_text("of an attempt that was killed")
    work.died_of = None
    result = compute(stage_of(work), context, root, KEY)
    assert (result.folder / "table").read_text() == "xxx"
    assert not (result.folder / "stale").exists()
    assert sorted(path.name for path in root.iterdir()) == [KEY, f"{KEY}.lock"]


def test_a_stage_that_goes_on_on_another_machine_says_so(context: StageContext, tmp_path: Path) -> None:
    """Its result may have the bits of neither: each machine that worked on it is named, once."""
    work, root = Work(), tmp_path / "s"
    work.died_of = Interrupted("stop")
    for threads in (1, 4, 1):
        with pytest.raises(Interrupted):
            compute(stage_of(work), replace(context, machine=Machine("cpu", "x", threads)), root, KEY)
    work.died_of = None
    result = compute(stage_of(work), replace(context, machine=Machine("cuda", "y", 4)), root, KEY)
    assert result.machines == ("cpu (x), threads: 1", "cpu (x), threads: 4", "cuda (y), threads: 4")
    found = find("table", root, KEY)
    assert found is not None
    assert found.machines == result.machines


def test_what_a_process_left_that_was_killed_as_it_finished_is_removed(
    context: StageContext, tmp_path: Path
) -> None:
    """The result is there, its scratch still is: nobody would ever need it again."""
    root = tmp_path / "s"
    result = compute(stage_of(Work()), context, root, KEY)
    (root / f"{KEY}.partial" / "scratch").mkdir(parents=True)
    clear(root, KEY)
    clear(root, KEY)
    assert sorted(path.name for path in root.iterdir()) == [KEY, f"{KEY}.lock"]
    assert find("table", root, KEY) == replace(result, reused=True)


def test_another_fingerprint_is_another_result(context: StageContext, tmp_path: Path) -> None:
    """Both stay: going back to an old setting finds its result."""
    work = Work()
    for key in (KEY, KEY[::-1], KEY):
        compute(stage_of(work), context, tmp_path / "s", key)
    assert work.calls == 2


def test_two_processes_do_not_compute_the_same_stage(context: StageContext, tmp_path: Path) -> None:
    """The second leaves with "try again", and computes nothing."""
    work, root = Work(), tmp_path / "s"
    with exclusive(root / f"{KEY}.lock", "stage table"), pytest.raises(TryAgain, match="stage table"):
        compute(stage_of(work), context, root, KEY)
    assert work.calls == 0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"outputs": {}}', json.dumps({"stage": "table", "fingerprint": KEY, "files": {}})],
)
def test_a_broken_record_is_named_with_what_to_delete(tmp_path: Path, text: str) -> None:
    """It is neither a result nor silently computed again over files that somebody changed."""
    folder = tmp_path / KEY
    folder.mkdir()
    (folder / "done.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"done\.json") as caught:
        find("table", tmp_path, KEY)
    assert str(folder) in caught.value.advice


def test_the_record_of_another_stage_is_refused(context: StageContext, tmp_path: Path) -> None:
    """A folder that was copied to a wrong name is no result of that name."""
    compute(stage_of(Work()), context, tmp_path / "s", KEY)
    (tmp_path / "s" / KEY).rename(tmp_path / "s" / KEY[::-1])
    with pytest.raises(IntegrityError, match="something else"):
        find("table", tmp_path / "s", KEY[::-1])


def test_a_folder_without_a_record_is_no_result_and_is_replaced(
    context: StageContext, tmp_path: Path
) -> None:
    """Somebody deleted the record alone: the stage is computed, and its rename does not fail at the end."""
    work = Work()
    result = compute(stage_of(work), context, tmp_path / "s", KEY)
    (result.folder / "done.json").unlink()
    (result.folder / "stale").write_text("")
    assert find("table", tmp_path / "s", KEY) is None
    again = compute(stage_of(work), context, tmp_path / "s", KEY)
    assert not again.reused
    assert not (again.folder / "stale").exists()


def test_a_fingerprint_covers_name_revision_reads_and_library_versions(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them changes it; nothing else does."""
    work = Work()
    stage = stage_of(work)
    before = stage.fingerprint(context)
    assert len(before) == 32
    assert int(before, 16) >= 0
    others = [
        replace(stage, name="reward"),
        replace(stage, revision=2),
        stage_of(work, reads={"seed": 1}),
        stage_of(work, libraries=("numpy", "scipy")),
    ]
    found = {before, *(other.fingerprint(context) for other in others)}
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    found.add(stage.fingerprint(context))
    assert len(found) == 6
    monkeypatch.undo()
    elsewhere = replace(context, folder=Path("/x"), machine=Machine("cuda", "y", 9), spec=context.spec)
    assert stage.fingerprint(elsewhere) == before


def test_what_a_stage_reads_must_be_plain_json(context: StageContext) -> None:
    """A NaN has no canonical form: better an error than a key that never matches itself."""
    with pytest.raises(ValueError, match="JSON"):
        stage_of(Work(), reads={"x": float("nan")}).fingerprint(context)


def test_the_actions_of_a_spec_keep_their_order() -> None:
    """Action 0 is the first prompt with the first post-processing: what the user has today."""
    post = [{"threshold": 0.5}, {"threshold": 0.6, "low": 0.3, "min_area": 20, "closing_radius": 1}]
    spec = JobSpec.model_validate({"name": "x", "actions": {"prompts": ["b", "a"], "postprocess": post}})
    space = action_space(spec)
    assert space.prompts == ("b", "a")
    assert space.postprocess == (PostProcess(0.5), PostProcess(0.6, 0.3, 20, 1))
    assert space[0].prompt == "b"


def test_a_record_is_plain_json(context: StageContext, tmp_path: Path) -> None:
    """People and other programs read it."""
    result = compute(stage_of(Work()), context, tmp_path / "s", KEY)
    record = json.loads((result.folder / "done.json").read_text())
    assert record == {
        "stage": "table", "fingerprint": KEY, "outputs": {"table": "digest"}, "seconds": result.seconds,
        "machines": list(result.machines),
        "files": {name: sha256_file(result.folder / name) for name in ("half", "table")},
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["changed", "missing", "new"])
def test_a_result_that_is_not_what_was_written_is_refused(
    damage: str, context: StageContext, tmp_path: Path
) -> None:
    """An edited number must not reach a report: each file is held against its digest first."""

    def work(running: StageContext) -> Mapping[str, str]:
        (running.folder / "results.json").write_text('{"dice": 0.7}')
        return {"results": "digest"}

    result = compute(replace(stage_of(Work()), run=work), context, tmp_path / "s", KEY)
    assert find("table", tmp_path / "s", KEY) is not None
    file = result.folder / "results.json"
    match damage:
        case "changed":
            file.write_text('{"dice": 0.9}')
        case "missing":
            file.unlink()
        case "new":
            (result.folder / "more.json").write_text("{}")
    with pytest.raises(IntegrityError, match="missing, new or changed"):
        find("table", tmp_path / "s", KEY)
