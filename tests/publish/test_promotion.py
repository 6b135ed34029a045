"""champion.json and last.json: promoted by jobs and by hand, raced for, rolled back."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from job.errors import InputError, IntegrityError, InvalidResult, Missing, SpecError, TryAgain
from job.evaluation.results import VerdictName
from job.logs import Output
from job.publish import champion as champions
from job.publish import promotion
from job.publish.champion import ChampionFile, LastFile
from job.publish.published import PublishedRun, open_run
from job.publish.publishing import publish
from job.publish.versions import versions
from job.storage import run_folder
from job.storage.local import sha256_json
from job.storage.local_store import LocalStore
from job.storage.run_folder import RunFolder
from job.storage.store import Changed, ObjectStore
from job.storage.uris import open_store
from tests.report.factory import make_info
from tests.report.promotions import Decision, promoting

EVENTS = io.StringIO()
Make = Callable[..., PublishedRun]


@pytest.fixture
def log() -> Any:
    EVENTS.seek(0)
    EVENTS.truncate()
    return Output(stream=EVENTS).log


def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in EVENTS.getvalue().splitlines()]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Seal a run whose record says what it was compared with and what was decided."""

    def make_run(run_id: str, **facts: Any) -> PublishedRun:
        run = open_run(
            LocalStore(tmp_path), f"runs/x/{seal(tmp_path, run_id, **facts).run_id}", or_invalid=True
        )
        assert run is not None
        return run

    return make_run


def seal(
    root: Path,
    run_id: str,
    *,
    decision: Decision | None = "promote",
    champion: str | None = None,
    generation: int = 0,
    verdict: VerdictName = "improved",
    has_candidate: bool = True,
    identity: str = "spec and inputs",
) -> RunFolder:
    folder = RunFolder(root, "x", run_id)
    info = make_info(verdict, n_images=6, name="x")
    if decision is not None:
        info = promoting(info, decision, has_champion=champion is not None)
        assert info.promotion is not None
        path = None if champion is None else f"runs/x/{champion}"
        update = {"champion": path, "generation": generation}
        info = info.model_copy(update={"promotion": info.promotion.model_copy(update=update)})
    folder.write("training_info.json", info.model_dump_json())
    folder.write("report.html", f"the report of {run_id}")
    if has_candidate:
        folder.write("candidate.json", json.dumps({"name": run_id}))
    exit_code = 5 if verdict == "invalid" else 0
    folder.seal(exit_code=exit_code, verdict=verdict, identity=identity, results_digest=run_id)
    return folder


def current(store: ObjectStore) -> ChampionFile:
    found = champions.read(store, "x")
    assert found is not None
    return found[0]


def chain(record: ChampionFile) -> list[str]:
    """Return the run ids of the champion and those before it."""
    return [reign.run.rpartition("/")[2] for reign in (record.current, *record.followed)]


def test_the_first_champion_is_created_with_its_figures(store: LocalStore, make: Make, log: Any) -> None:
    """Run, digest and figures are those of the run's record."""
    run = make("a")
    assert promotion.settle(store, run, log)
    record = current(store)
    info = make_info("improved", n_images=6, name="x")
    assert (record.name, record.generation, record.by, record.previous) == ("x", 1, "job", None)
    assert (record.current.run, record.current.manifest_sha256) == ("runs/x/a", run.manifest_sha256)
    assert record.dice == info.results.verdict.dice_after
    assert record.vs_noop == info.results.verdict.vs_noop
    assert record.vs_champion is None
    splits = ("train", "validation", "test", "unlabelled")
    assert record.data_fingerprint == sha256_json({s: info.data.digests.get(s) for s in splits})
    assert record.candidate == "PPO policy"
    (event,) = events()
    assert (event["event"], event["run"], event["generation"]) == ("champion.promoted", "runs/x/a", 1)
    assert event["model_uri"] == f"{store.uri}/models/x"


def test_a_better_run_follows_and_the_chain_remembers(store: LocalStore, make: Make, log: Any) -> None:
    """Three generations, each with the one before and the paired difference to it."""
    assert promotion.settle(store, make("a"), log)
    assert promotion.settle(store, make("b", champion="a", generation=1), log)
    run = make("c", champion="b", generation=2)
    assert promotion.settle(store, run, log)
    record = current(store)
    assert chain(record) == ["c", "b", "a"]
    assert record.generation == 3
    assert record.previous is not None
    assert record.previous.run == "runs/x/b"
    wanted = json.loads((store.folder / "runs/x/c/training_info.json").read_text())["promotion"]
    assert json.loads(record.model_dump_json())["vs_champion"] == wanted["vs_champion"]


def test_settling_again_changes_nothing(store: LocalStore, make: Make, log: Any) -> None:
    """An attempt that was killed after it promoted is followed by one that finds it done."""
    run = make("a")
    assert promotion.settle(store, run, log)
    before = (store.folder / "models/x/champion.json").read_bytes()
    assert promotion.settle(store, run, log)
    assert (store.folder / "models/x/champion.json").read_bytes() == before
    assert promotion.settle(store, make("b", champion="a", generation=1), log)
    assert not promotion.settle(store, run, log)
    assert chain(current(store)) == ["b", "a"]
    assert [event["event"] for event in events()] == ["champion.promoted"] * 2


@pytest.mark.parametrize(
    ("decision", "verdict"), [("keep", "improved"), ("invalid", "invalid"), (None, "improved")]
)
def test_what_is_not_to_be_promoted_is_not(
    store: LocalStore, make: Make, log: Any, decision: Decision | None, verdict: VerdictName
) -> None:
    """A kept champion, an invalid run, and a run that compared nothing."""
    assert not promotion.settle(store, make("a", decision=decision, verdict=verdict), log)
    assert champions.read(store, "x") is None
    assert events() == []


def test_a_run_takes_the_place_of_no_champion_but_the_one_that_it_met(
    store: LocalStore, make: Make, log: Any
) -> None:
    """It was compared with generation 1; by the time that it is done there is generation 2."""
    promotion.settle(store, make("a"), log)
    promotion.settle(store, make("b", champion="a", generation=1), log)
    late = make("late", champion="a", generation=1)
    assert not promotion.settle(store, late, log)
    assert chain(current(store)) == ["b", "a"]
    event = events()[-1]
    assert (event["event"], event["level"], event["run"]) == (
        "champion.race_lost", "warning", "runs/x/late",
    )  # fmt: skip


class _Slow(LocalStore):
    """Another job is always a moment faster: what it does stands here between reading and writing."""

    def create(self, key: str, data: bytes) -> str:
        rival = json.loads(data) | {"reason": "a rival"}
        LocalStore(self.folder).create(key, json.dumps(rival).encode())
        raise Changed(key)


def test_a_rival_between_reading_and_writing_wins(store: LocalStore, make: Make, log: Any) -> None:
    """The condition of the write finds it, and the rival's record stays."""
    assert not promotion.settle(_Slow(store.folder), make("a"), log)
    assert current(store).reason == "a rival"
    assert events()[-1]["event"] == "champion.race_lost"


class _Deaf(LocalStore):
    """The answer to a write is lost; asked again, the store says that there is an object already."""

    def create(self, key: str, data: bytes) -> str:
        super().create(key, data)
        raise Changed(key)


def test_a_lost_answer_is_no_lost_race(store: LocalStore, make: Make, log: Any) -> None:
    """The object there is the very one that was written."""
    assert promotion.settle(_Deaf(store.folder), make("a"), log)
    assert chain(current(store)) == ["a"]


def _race(store: ObjectStore, runs: list[PublishedRun], log: Any) -> list[bool]:
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(lambda run: promotion.settle(store, run, log), runs))


def test_of_racing_runs_exactly_one_becomes_champion(store: LocalStore, make: Make, log: Any) -> None:
    """Six at a time, first for the empty place and then for the champion's, ten times."""
    before: str | None = None
    for generation in range(10):
        runs = [make(f"g{generation}-{i}", champion=before, generation=generation) for i in range(6)]
        won = _race(store, runs, log)
        assert won.count(True) == 1
        record = current(store)
        assert record.current.run == runs[won.index(True)].path
        assert record.generation == generation + 1
        before = record.current.run.rpartition("/")[2]


def test_a_store_has_exactly_one_winner_too(s3_prefix: str, tmp_path: Path, log: Any) -> None:
    """Against a real S3 server, with the incumbent brought from it: only the needed files."""
    store = open_store(s3_prefix)
    before: str | None = None
    for generation in range(2):
        runs = [
            publish(
                seal(tmp_path / "made", f"g{generation}-{i}", champion=before, generation=generation),
                store, 1, lambda: None, log,
            )
            for i in range(3)
        ]  # fmt: skip
        won = _race(store, runs, log)
        assert won.count(True) == 1
        before = runs[won.index(True)].manifest.run_id
    found = promotion.incumbent(store, "x", tmp_path / "cache")
    assert found is not None
    assert found.record.generation == 2
    assert json.loads((found.folder / "candidate.json").read_text()) == {"name": before}
    assert not (found.folder / "report.html").exists()
    back = promotion.by_hand(f"{s3_prefix}/models/x", "previous")
    assert back.current.run.startswith("runs/x/g0-")
    assert current(store) == back


def test_there_is_no_incumbent_before_the_first(store: LocalStore, tmp_path: Path) -> None:
    """Which is no error."""
    assert promotion.incumbent(store, "x", tmp_path / "cache") is None


def test_the_incumbent_is_the_champion_s_run(store: LocalStore, make: Make, log: Any, tmp_path: Path) -> None:
    """Its record, what a write must replace, and its files."""
    promotion.settle(store, make("a"), log)
    found = promotion.incumbent(store, "x", tmp_path / "cache")
    assert found is not None
    assert found.record == current(store)
    assert found.folder == tmp_path / "runs/x/a"
    store.replace("models/x/champion.json", b"{}", found.etag)


def test_a_champion_that_cannot_be_had_is_never_no_champion(
    store: LocalStore, make: Make, log: Any, tmp_path: Path
) -> None:
    """Changed, replaced, gone, or named by a damaged record: each error says what to do."""
    promotion.settle(store, make("a"), log)
    (tmp_path / "runs/x/a/candidate.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"candidate.json: a file of the champion") as damaged:
        promotion.incumbent(store, "x", tmp_path / "cache")
    assert f"promote {store.uri}/models/x --to RUN_ID" in damaged.value.advice
    make("a", verdict="inconclusive")
    with pytest.raises(IntegrityError, match="manifest is another one") as replaced:
        promotion.incumbent(store, "x", tmp_path / "cache")
    assert "--to RUN_ID" in replaced.value.advice
    (tmp_path / "runs/x/a/_SUCCESS").unlink()
    with pytest.raises(InputError, match="is gone") as gone:
        promotion.incumbent(store, "x", tmp_path / "cache")
    assert "--to RUN_ID" in gone.value.advice
    for text in ("{", "[]", '{"name": "x"}'):
        store.write("models/x/champion.json", text.encode())
        with pytest.raises(IntegrityError, match="not what this program writes"):
            promotion.incumbent(store, "x", tmp_path / "cache")


def test_the_segmenter_of_a_champion_is_brought_where_it_is_in_a_store(
    store: LocalStore, make: Make, log: Any, tmp_path: Path
) -> None:
    """One on this machine stays where it is; one that is gone is an error that names the champion."""
    promotion.settle(store, make("a"), log)
    met = promotion.incumbent(store, "x", tmp_path / "cache")
    assert met is not None
    brought: list[str] = []

    def bring(uri: str) -> Path:
        brought.append(uri)
        return tmp_path / "brought"

    assert promotion.with_segmenter(met, bring) == met
    candidate = met.folder / "candidate.json"
    candidate.write_text(json.dumps({"segmenter": {"uri": "s3://bucket/sa2va"}}))
    assert promotion.with_segmenter(met, bring).segmenter == tmp_path / "brought"
    assert brought == ["s3://bucket/sa2va"]

    def gone(uri: str) -> Path:
        raise Missing(f"{uri} does not exist")

    with pytest.raises(InputError, match=r"champion runs/x/a cannot be had: s3://bucket/sa2va") as error:
        promotion.with_segmenter(met, gone)
    assert "--to RUN_ID" in error.value.advice


def test_rolling_back_walks_the_chain_and_never_forward(store: LocalStore, make: Make, log: Any) -> None:
    """From c to b to a and no further: a second rollback does not bring back what the first one left."""
    promotion.settle(store, make("a"), log)
    promotion.settle(store, make("b", champion="a", generation=1), log)
    promotion.settle(store, make("c", champion="b", generation=2), log)
    place = f"{store.uri}/models/x"
    assert chain(promotion.by_hand(place, "previous")) == ["b", "a"]
    record = promotion.by_hand(place, "previous")
    assert chain(record) == ["a"]
    assert (record.generation, record.by) == (5, "hand")
    assert record.reason == "Rolled back by hand from runs/x/b."
    assert current(store) == record
    with pytest.raises(InputError, match="no champion before"):
        promotion.by_hand(place, "previous")
    assert chain(promotion.by_hand(place, "c")) == ["c", "a"]


def test_a_rollback_verifies_what_it_brings_back(
    store: LocalStore, make: Make, log: Any, tmp_path: Path
) -> None:
    """Another run under the old name, and a file that rotted meanwhile."""
    promotion.settle(store, make("a"), log)
    promotion.settle(store, make("b", champion="a", generation=1), log)
    before = current(store)
    (tmp_path / "runs/x/a/report.html").write_text("rotten")
    with pytest.raises(IntegrityError, match=r"report.html"):
        promotion.by_hand(f"{store.uri}/models/x", "previous")
    make("a", verdict="inconclusive")
    with pytest.raises(IntegrityError, match="not the run that was champion"):
        promotion.by_hand(f"{store.uri}/models/x", "previous")
    assert current(store) == before


def test_the_newest_run_is_put_in_use_where_its_record_says_so(
    store: LocalStore, make: Make, log: Any
) -> None:
    """Without a champion `improved` will do; with one, the comparison with that very one."""
    place = f"{store.uri}/models/x"
    make("a", decision=None)
    assert chain(promotion.by_hand(place)) == ["a"]
    assert promotion.by_hand(place).generation == 1
    make("b", champion="a", generation=1)
    record = promotion.by_hand(place)
    assert chain(record) == ["b", "a"]
    assert record.vs_champion is not None


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"decision": None}, "was not compared with the champion runs/x/a"),
        ({"decision": "keep", "champion": "a", "generation": 1}, "not surely better than the champion"),
        ({"champion": "z", "generation": 1}, "runs/x/a is the champion by now"),
        ({"decision": "promote"}, "was compared with what you have today"),
    ],
)
def test_a_newest_run_that_is_not_better_needs_to_be_named(
    store: LocalStore, make: Make, log: Any, facts: dict[str, Any], match: str
) -> None:
    """Why it is not, and how to do it all the same; named, it is taken."""
    promotion.settle(store, make("a"), log)
    make("b", **facts)
    (store.folder / "runs/x/a/_SUCCESS").rename(store.folder / "runs/x/a/hidden")  # b is the newest
    with pytest.raises(InputError, match=match) as refused:
        promotion.by_hand(f"{store.uri}/models/x")
    assert f"promote {store.uri}/models/x --to b" in refused.value.advice
    assert chain(current(store)) == ["a"]
    record = promotion.by_hand(f"{store.uri}/models/x", "b")
    assert chain(record) == ["b", "a"]
    assert record.reason.startswith("Put in use by hand. ppo beats")


def test_without_a_champion_only_an_improvement_goes_unnamed(store: LocalStore, make: Make) -> None:
    """An inconclusive run has to be named."""
    make("a", verdict="inconclusive", decision="keep")
    with pytest.raises(InputError, match="not surely better than what you have today"):
        promotion.by_hand(f"{store.uri}/models/x")
    assert chain(promotion.by_hand(f"{store.uri}/models/x", "a")) == ["a"]


def test_what_must_not_be_in_use_is_refused(store: LocalStore, make: Make, tmp_path: Path) -> None:
    """Invalid runs, unfinished ones, those that ship nothing, damaged ones; and names that are none."""
    place = f"{store.uri}/models/x"
    make("bad", verdict="invalid", decision="invalid")
    with pytest.raises(InvalidResult, match="ended invalid"):
        promotion.by_hand(place, "bad")
    with pytest.raises(InputError, match="no finished run"):
        promotion.by_hand(place, "nowhere")
    make("folds", has_candidate=False)
    with pytest.raises(InputError, match="ships no candidate"):
        promotion.by_hand(place, "folds")
    make("damaged")
    (tmp_path / "runs/x/damaged/report.html").write_text("rotten")
    with pytest.raises(IntegrityError, match=r"report.html"):
        promotion.by_hand(place, "damaged")
    for to in ("../y/a", "", ".."):
        with pytest.raises(SpecError, match="no run id"):
            promotion.by_hand(place, to)
    for other in (store.uri, f"{store.uri}/runs/x", f"{store.uri}/models"):
        with pytest.raises(SpecError, match="is no model"):
            promotion.by_hand(other, "a")
    assert champions.read(store, "x") is None


def test_naming_a_run_is_the_way_out_of_a_damaged_record(store: LocalStore, make: Make) -> None:
    """Nothing else overwrites it."""
    make("a")
    store.write("models/x/champion.json", b"{")
    for to in (None, "previous"):
        with pytest.raises(IntegrityError, match="not what this program writes"):
            promotion.by_hand(f"{store.uri}/models/x", to)
    assert promotion.by_hand(f"{store.uri}/models/x", "a").generation == 1
    assert chain(current(store)) == ["a"]


def test_a_hand_that_is_late_changes_nothing(
    store: LocalStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job promoted between reading and writing."""
    make("a")
    monkeypatch.setattr(promotion, "open_store", lambda uri: _Slow(store.folder))
    with pytest.raises(TryAgain, match="changed the champion at this moment"):
        promotion.by_hand(f"{store.uri}/models/x", "a")
    assert current(store).reason == "a rival"


@pytest.mark.parametrize(("verdict", "exit_code"), [("improved", 0), ("invalid", 5)])
def test_an_equal_night_has_nothing_to_do_and_ends_as_the_last(
    store: LocalStore, make: Make, verdict: VerdictName, exit_code: int
) -> None:
    """Equal spec, inputs and versions; anything else is something new."""
    assert promotion.nothing_new(store, "x", "spec and inputs") is None
    decision: Decision = "invalid" if verdict == "invalid" else "keep"
    run = make("a", verdict=verdict, decision=decision)
    note = promotion.note_last(store, run)
    assert (note.run.run, note.exit_code) == ("runs/x/a", exit_code)
    installed = note.versions
    assert promotion.nothing_new(store, "x", "spec and inputs", installed) == note
    assert promotion.nothing_new(store, "x", "one more image", installed) is None
    assert promotion.nothing_new(store, "x", "spec and inputs", {**installed, "torch": "9"}) is None
    assert promotion.nothing_new(store, "x", "spec and inputs") is None  # not the made-up versions
    assert promotion.nothing_new(store, "y", "spec and inputs", installed) is None
    (store.folder / "runs/x/a/manifest.json").unlink()
    assert promotion.nothing_new(store, "x", "spec and inputs", installed) is None


def test_the_installed_versions_are_what_a_note_is_compared_with(store: LocalStore, make: Make) -> None:
    """By default."""
    note = promotion.note_last(store, make("a"))
    here = LastFile.model_validate(note.model_dump() | {"versions": versions()})
    store.write("models/x/last.json", here.model_dump_json().encode())
    assert promotion.nothing_new(store, "x", "spec and inputs") == here


def test_a_damaged_note_is_none(store: LocalStore) -> None:
    """It only saves work: the job runs."""
    store.write("models/x/last.json", b"{")
    assert promotion.last(store, "x") is None


def test_telling_that_nothing_is_new_imports_no_torch() -> None:
    """A night with nothing new takes seconds."""
    code = "import job.publish.promotion, sys; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'job.publish.promotion'" in done.stdout
    for heavy in ("torch", "transformers", "stable_baselines3", "matplotlib", "boto3"):
        assert f"'{heavy}'" not in done.stdout


def test_an_old_run_that_is_asked_for_again_is_not_the_last(
    store: LocalStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry of an earlier night leaves the note of the later one."""
    for run_id, finished_at in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")):
        monkeypatch.setattr(run_folder, "utc_now", lambda at=finished_at: at)
        promotion.note_last(store, make(run_id))
    old = open_run(store, "runs/x/old")
    assert old is not None
    assert promotion.note_last(store, old).run.run == "runs/x/new"
    assert promotion.last(store, "x") == promotion.note_last(store, old)


def test_a_run_whose_marker_disowns_its_manifest_is_not_promoted(store: LocalStore, make: Make) -> None:
    """Named or as the newest one: damage, and no run that has yet to finish."""
    run = make("a")
    store.write(f"{run.path}/_SUCCESS", b"0" * 64)
    for to in (None, "a"):
        with pytest.raises(IntegrityError, match="the run is damaged: manifest"):
            promotion.by_hand(f"{store.uri}/models/x", to)
    store.delete([f"{run.path}/_SUCCESS"])
    with pytest.raises(InputError, match="_SUCCESS is missing"):
        promotion.by_hand(f"{store.uri}/models/x", "a")


def test_a_damaged_last_run_is_something_new(store: LocalStore, make: Make) -> None:
    """The job runs, and repairs it, also where the manifest of an invalid night is cut short."""
    run = make("a")
    note = promotion.note_last(store, run)
    assert promotion.nothing_new(store, "x", note.identity, note.versions) == note
    store.delete([f"{run.path}/_SUCCESS"])
    store.write(f"{run.path}/manifest.json", b"{")
    assert promotion.nothing_new(store, "x", note.identity, note.versions) is None
