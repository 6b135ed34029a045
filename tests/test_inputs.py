"""What a spec points at."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from job import inputs
from job.errors import InputError, SpecError
from job.inputs import Files, Found, find, run_id_of, segmenter_folder
from job.places import Places
from job.progress import SILENT
from job.publish.published import open_run
from job.publish.publishing import publish
from job.spec.job import JobSpec
from job.storage.fetch import Fetcher, Listing
from job.storage.local import sha256_folder
from job.storage.run_folder import RunFolder
from job.storage.uris import open_store


def spec_of(**sections: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "x", **sections})


def resolve(spec: JobSpec) -> Found:
    return find(spec, Places.of(spec))


@pytest.fixture
def world(tmp_path: Path) -> Found:
    """Small files in place of everything that a job reads."""
    for name in ("data/images/a.png", "segmenter/weights", "network", "policy"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    places = [tmp_path / name for name in ("data", "segmenter", "network", "policy")]
    return Found(places[0], None, *places[1:], others={}, files=Files(tmp_path / "cache"))


def test_the_shortest_spec_needs_no_file_of_the_user() -> None:
    """Synthetic images, and the segmenter that comes with the program."""
    found = resolve(spec_of())
    assert (found.data, found.unlabelled, found.policy) == (None, None, None)
    assert (found.segmenter / "config.json").is_file()
    assert found.reward_network.name == "model.safetensors"


def test_folders_are_resolved_to_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain path is relative to where the job is started, a file URI is absolute."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "more"):
        (tmp_path / name).mkdir()
    found = resolve(spec_of(data={"uri": "data", "unlabelled_uri": (tmp_path / "more").as_uri()}))
    assert (found.data, found.unlabelled) == (tmp_path.resolve() / "data", tmp_path.resolve() / "more")


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"data": {"uri": "nowhere"}}, "data.uri"),
        ({"data": {"unlabelled_uri": "nowhere"}}, "data.unlabelled_uri"),
        ({"segmenter": {"uri": "nowhere"}}, "segmenter.uri"),
        ({"evaluate": {"datasets": [{"name": "a", "uri": "nowhere"}]}}, r"evaluate\.datasets\[0\]\.uri"),
        ({"reward": {"network": {"uri": "nowhere"}}}, "reward.network.uri"),
        ({"finetune": {"policy_uri": "nowhere"}}, "finetune.policy_uri"),
    ],
)
def test_what_is_not_there_is_named_by_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], field: str
) -> None:
    """Exit code 3, with the path and what to do."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{field}: nowhere does not exist") as caught:
        resolve(spec_of(**sections))
    assert caught.value.advice


def test_further_datasets_are_found_by_name(tmp_path: Path, world: Found) -> None:
    """Each folder under its name; its content counts for the run's identity."""
    (tmp_path / "stare").mkdir()
    datasets = [{"name": "STARE", "uri": str(tmp_path / "stare")}]
    found = resolve(spec_of(evaluate={"datasets": datasets}))
    assert found.others == {"STARE": (tmp_path / "stare").resolve()}
    with_others = replace(world, others=found.others)
    before = with_others.identity(spec_of())
    assert before != world.identity(spec_of())
    (tmp_path / "stare" / "im0001.ppm").write_text("picture")
    assert with_others.identity(spec_of()) != before


def a_run(folder: Path, *trained: str) -> Path:
    for name in ("manifest.json", "_SUCCESS", *(f"segmenter/{one}/config.json" for one in trained)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("named", ["runs/x/1", "runs/x/1/", "runs/x/1/segmenter", "runs/x"])
def test_a_run_in_place_of_a_checkpoint_is_answered_with_those_in_it(tmp_path: Path, named: str) -> None:
    """Whether the run, its folder of checkpoints, or the folder of its name is given."""
    run = a_run(tmp_path / "runs" / "x" / "1", "sft", "grpo")
    with pytest.raises(InputError, match=r"^segmenter\.uri: .* is no checkpoint, but holds") as caught:
        resolve(spec_of(segmenter={"uri": f"{tmp_path}/{named}"}))
    assert caught.value.advice == f"name one of them: {run}/segmenter/grpo, {run}/segmenter/sft"


def test_a_run_without_a_checkpoint_is_told_from_one(tmp_path: Path) -> None:
    """It trained no weights; and a checkpoint is no run, whatever lies beside its config.json."""
    run = a_run(tmp_path / "runs" / "x" / "1")
    with pytest.raises(InputError, match="is a run that trained no weights, and no checkpoint"):
        resolve(spec_of(segmenter={"uri": str(run)}))
    (run / "config.json").write_text("{}")
    assert resolve(spec_of(segmenter={"uri": str(run)})).segmenter == run.resolve()


def test_a_file_where_a_folder_belongs_is_called_that(tmp_path: Path) -> None:
    """`does not exist` would send people looking in the wrong place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        resolve(spec_of(data={"uri": str(tmp_path / "file")}))


@pytest.mark.parametrize(
    ("sections", "there_is"),
    [
        ({"data": {"uri": "synthetic:cats"}}, "synthetic:fundus"),
        ({"segmenter": {"uri": "embedded:sam"}}, "embedded:promptable_unet"),
    ],
)
def test_an_unknown_built_in_is_answered_with_what_there_is(sections: dict[str, Any], there_is: str) -> None:
    """Exit code 2: the spec is wrong, not the disk."""
    with pytest.raises(SpecError) as caught:
        resolve(spec_of(**sections))
    assert there_is in caught.value.advice


def test_a_run_s_artifact_is_found_by_file_run_or_name(tmp_path: Path) -> None:
    """The file itself, the run folder, or the folder of runs, whose newest finished one counts."""
    run = RunFolder(tmp_path, "vessels", "one")
    run.write(inputs.POLICY, "p")
    place = [run.path / inputs.POLICY, run.path, run.path.parent]
    with pytest.raises(InputError, match="no finished run"):
        resolve(spec_of(finetune={"policy_uri": str(run.path)}))
    run.seal(exit_code=0, verdict="improved", identity="x")
    for uri in place:
        assert resolve(spec_of(finetune={"policy_uri": str(uri)})).policy == place[0].resolve()
    with pytest.raises(InputError, match=r"/one has no reward/best_reward_net\.safetensors"):
        resolve(spec_of(reward={"network": {"uri": str(run.path)}}))


def test_identity_changes_with_whatever_changes_the_result(world: Found) -> None:
    """The spec, the bytes of a dataset file, a checkpoint file, the network or the policy."""
    seen = {world.identity(spec_of())}

    def assert_new() -> None:
        identity = world.identity(spec_of())
        assert identity not in seen
        assert identity == world.identity(spec_of())
        seen.add(identity)

    assert world.data is not None
    (world.data / "images" / "b.png").write_text("new")
    assert_new()
    os.utime(world.data / "images" / "b.png", (1, 1))
    assert world.identity(spec_of()) in seen
    (world.segmenter / "weights").write_text("other weights")
    assert_new()
    world.reward_network.write_text("Network")
    assert_new()
    assert world.policy is not None
    world.policy.write_text("Policy")
    assert_new()
    assert world.identity(spec_of(seed=1)) not in seen


def test_a_dataset_is_read_once_and_known_again_after_it_was_fetched_anew(
    world: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same names, sizes and times: the remembered digest. Other times: read again, the same identity."""
    memory = tmp_path / "memory"
    before = world.identity(spec_of(), memory)
    assert before == world.identity(spec_of())
    read: list[Path] = []

    def reading(folder: Path) -> str:
        read.append(folder)
        return sha256_folder(folder)

    monkeypatch.setattr(inputs, "sha256_folder", reading)
    assert world.identity(spec_of(), memory) == before
    assert not read
    assert world.data is not None
    os.utime(next(path for path in world.data.rglob("*") if path.is_file()), (2, 2))
    assert world.identity(spec_of(), memory) == before
    assert read == [world.data]


def test_identity_ignores_where_and_how_the_job_runs(world: Found) -> None:
    """Runtime, output and cache settings describe no result; nor do the times of files read whole."""
    before = world.identity(spec_of())
    elsewhere = spec_of(output={"uri": "o"}, cache={"uri": "c"}, runtime={"threads": 7, "device": "cpu"})
    os.utime(world.reward_network, (1, 1))
    assert world.identity(elsewhere) == before


def test_the_embedded_segmenter_counts_by_content(
    tmp_path: Path, world: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two installations of the program have other file times and the same identity."""
    monkeypatch.setattr(inputs, "EMBEDDED_ROOT", tmp_path)
    before = world.identity(spec_of())
    os.utime(world.segmenter / "weights", (1, 1))
    assert world.identity(spec_of()) == before
    (world.segmenter / "weights").write_text("changed!!")
    assert world.identity(spec_of()) != before


def test_a_run_is_named_by_its_identity_or_by_its_user() -> None:
    """12 hex digits, or a name that is safe as a folder's."""
    identity = "0123456789abcdef" * 4
    assert run_id_of(identity, None) == "0123456789ab"
    assert run_id_of(identity, "night-2025_01.02") == "night-2025_01.02"
    assert run_id_of(identity, "a" * 200) == "a" * 200
    for long in ("a" * 201, "ä" * 101):
        with pytest.raises(SpecError, match="bytes"):
            run_id_of(identity, long)


def test_the_environment_names_a_run_where_the_command_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOB_RUN_ID, the name of a Pod's Job, names the run; --run-id goes before it, and empty means unset."""
    monkeypatch.setenv("JOB_RUN_ID", "nightly-29374620")
    assert run_id_of("0123456789abcdef", None) == "nightly-29374620"
    assert run_id_of("0123456789abcdef", "by-hand") == "by-hand"
    monkeypatch.setenv("JOB_RUN_ID", "")
    assert run_id_of("0123456789abcdef", None) == "0123456789ab"
    monkeypatch.setenv("JOB_RUN_ID", "../elsewhere")
    with pytest.raises(SpecError, match="cannot name a folder"):
        run_id_of("0123456789abcdef", None)


@pytest.mark.parametrize("given", ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a\n", "a:b", "---"])
def test_a_run_id_that_cannot_name_a_folder_is_refused(given: str) -> None:
    """It would land beside the runs, or hide."""
    with pytest.raises(SpecError, match="cannot name a folder"):
        run_id_of("0" * 64, given)


def test_the_starter_specs_resolve_without_data_of_the_user() -> None:
    """Those on synthetic images run on any machine."""
    specs = Path(inputs.__file__).parent.parent / "specs"
    names = []
    for path in specs.glob("*.json"):
        document = json.loads(path.read_text())
        if "name" in document and document.get("data", {}).get("uri", inputs.SYNTHETIC) == inputs.SYNTHETIC:
            spec = JobSpec.model_validate(document)
            if not (spec.policy.policy_uri or spec.reward.network.uri):
                resolve(spec)
                names.append(path.stem)
    assert {"tiny", "quick", "weights"} <= set(names)


# In a store


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "cache", 10**9, SILENT, structlog.get_logger())


def put(uri: str, **files: str) -> None:
    """Write objects, whose names have `__` for `/`."""
    for name, content in files.items():
        open_store(uri).write(name.replace("__", "/"), content.encode())


def remote_spec(tmp_path: Path, prefix: str, **sections: Any) -> JobSpec:
    return spec_of(
        **{
            "data": {"uri": f"{prefix}/data", "unlabelled_uri": f"{prefix}/more"},
            "segmenter": {"uri": f"{prefix}/model"},
            "evaluate": {"datasets": [{"name": "STARE", "uri": f"{prefix}/stare"}]},
            "output": {"uri": str(tmp_path / "output")},
            **sections,
        }
    )


def put_all(prefix: str) -> None:
    for name in ("data", "more", "stare"):
        put(f"{prefix}/{name}", images__a_png=name)
    put(f"{prefix}/model", config_json="{}", weights="w" * 1000)


def test_folders_of_a_store_are_known_by_their_listing(tmp_path: Path, s3_prefix: str) -> None:
    """Nothing is downloaded to name a run; whatever object changes, in any of the folders, the name does."""
    put_all(s3_prefix)
    spec = remote_spec(tmp_path, s3_prefix)
    found = resolve(spec)
    assert isinstance(found.data, Listing)
    seen = {found.identity(spec)}
    assert resolve(spec).identity(spec) in seen
    assert not (tmp_path / "output").exists()
    for place in ("data", "more", "stare", "model"):
        put(f"{s3_prefix}/{place}", new=place)
        identity = resolve(spec).identity(spec)
        assert identity not in seen
        seen.add(identity)


def test_folders_of_a_store_are_brought_here(tmp_path: Path, s3_prefix: str, fetcher: Fetcher) -> None:
    """Then a job sees local folders, as ever; a point of its sweep asks nobody again."""
    put_all(s3_prefix)
    spec = remote_spec(tmp_path, s3_prefix)
    with structlog.testing.capture_logs() as events:
        found = resolve(spec)
        brought = found.fetch(fetcher)
        assert found.of(spec_of(finetune={"n_epochs": 3})).fetch(fetcher) == replace(brought)
    assert [event["event"] for event in events] == ["pull.fetched"] * 4
    assert brought.data is not None
    assert brought.unlabelled is not None
    texts = [(folder / "images/a_png").read_text() for folder in (brought.data, brought.unlabelled)]
    assert texts == ["data", "more"]
    assert (brought.others["STARE"] / "images/a_png").read_text() == "stare"
    assert (brought.segmenter / "weights").read_text() == "w" * 1000
    with structlog.testing.capture_logs():
        assert segmenter_folder(f"{s3_prefix}/model", fetcher) == brought.segmenter
    with pytest.raises(ValueError, match="a fetcher must bring it"):
        segmenter_folder(f"{s3_prefix}/model")


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"data": {"uri": "{}/dat"}}, r"data\.uri"),
        ({"data": {"uri": "{}/data", "unlabelled_uri": "{}/x"}}, r"data\.unlabelled_uri"),
        ({"segmenter": {"uri": "{}/x"}}, r"segmenter\.uri"),
        ({"evaluate": {"datasets": [{"name": "a", "uri": "{}/x"}]}}, r"evaluate\.datasets\[0\]\.uri"),
        ({"reward": {"network": {"uri": "{}/x.safetensors"}}}, r"reward\.network\.uri"),
        ({"reward": {"network": {"uri": "{}/runs/x"}}}, r"reward\.network\.uri"),
        ({"finetune": {"policy_uri": "{}/models/x"}}, r"finetune\.policy_uri"),
    ],
)
def test_what_is_not_in_the_store_is_named_by_its_field(
    tmp_path: Path, s3_prefix: str, sections: dict[str, Any], field: str
) -> None:
    """Exit code 3, with the URI and what to do."""
    put_all(s3_prefix)
    sections = json.loads(json.dumps(sections).replace("{}", s3_prefix))
    with pytest.raises(InputError, match=rf"^{field}: s3://") as caught:
        resolve(remote_spec(tmp_path, s3_prefix, **sections))
    assert caught.value.advice


def test_a_run_of_a_store_is_no_checkpoint_either(tmp_path: Path, s3_prefix: str) -> None:
    """Its checkpoints lie below an attempt."""
    put_all(s3_prefix)
    open_store(f"{s3_prefix}/runs/x/1").write("attempt-2/segmenter/sft/config.json", b"{}")
    spec = remote_spec(tmp_path, s3_prefix, segmenter={"uri": f"{s3_prefix}/runs/x/1"})
    with pytest.raises(InputError, match=r"^segmenter\.uri: s3://.*/runs/x/1 is no checkpoint") as caught:
        resolve(spec)
    assert caught.value.advice.endswith(f"{s3_prefix}/runs/x/1/attempt-2/segmenter/sft")


def test_a_file_of_a_run_in_a_store_counts_by_its_digest(
    tmp_path: Path, s3_prefix: str, fetcher: Fetcher
) -> None:
    """Found by the run, by its name and by the champion; the same content has the same identity as here."""
    run = RunFolder(tmp_path, "vessels", "one")
    run.write(inputs.POLICY, "p")
    run.seal(exit_code=0, verdict="improved", identity="x")
    store = open_store(s3_prefix)
    with structlog.testing.capture_logs():
        done = publish(run, store, 2, lambda: None, structlog.get_logger())
    pointer = {"current": {"run": done.path, "manifest_sha256": done.manifest_sha256}, "previous": None}
    store.write("models/vessels/champion.json", json.dumps(pointer).encode())
    same = resolve(spec_of(finetune={"policy_uri": str(run.path)}))
    spec = spec_of()
    for place in ("runs/vessels/one", "runs/vessels", "models/vessels"):
        found = resolve(spec_of(finetune={"policy_uri": f"{s3_prefix}/{place}"}))
        assert found.identity(spec) == same.identity(spec)
        policy = found.fetch(fetcher).policy
        assert policy is not None
        assert policy.read_text() == "p"
    with pytest.raises(InputError, match=r"has no reward/best_reward_net\.safetensors"):
        resolve(spec_of(reward={"network": {"uri": f"{s3_prefix}/runs/vessels"}}))


def test_the_newest_run_stays_the_same_throughout_a_job(
    tmp_path: Path, s3_prefix: str, fetcher: Fetcher
) -> None:
    """Another job may publish a newer one while a sweep is on its way."""
    spec = spec_of(finetune={"policy_uri": str(tmp_path / "runs" / "vessels")})
    for name in ("one", "two"):
        run = RunFolder(tmp_path, "vessels", name)
        run.write(inputs.POLICY, name)
        run.seal(exit_code=0, verdict="improved", identity="x")
        if name == "one":
            os.utime(run.path / "_SUCCESS", (1e9, 1e9))
            found = resolve(spec)
    assert found.of(spec).policy == found.policy
    assert resolve(spec).policy != found.policy


def test_a_single_file_of_a_store_is_enough(tmp_path: Path, s3_prefix: str, fetcher: Fetcher) -> None:
    """A network that is no run's is known by its version, and brought when it is needed."""
    spec = spec_of(reward={"network": {"uri": f"{s3_prefix}/nets/mine.safetensors"}})
    put(f"{s3_prefix}/nets", **{"mine.safetensors": "n"})
    found = resolve(spec)
    with structlog.testing.capture_logs():
        network = found.fetch(fetcher).reward_network
    assert network is not None
    assert (network.name, network.read_text()) == ("mine.safetensors", "n")
    put(f"{s3_prefix}/nets", **{"mine.safetensors": "m"})
    assert resolve(spec).identity(spec) != found.identity(spec)


def test_the_champion_of_a_folder_is_a_place_too(tmp_path: Path) -> None:
    """`models/NAME` on this machine."""
    run = RunFolder(tmp_path, "vessels", "one")
    run.write(inputs.POLICY, "p")
    run.seal(exit_code=0, verdict="improved", identity="x")
    done = open_run(open_store(str(tmp_path)), "runs/vessels/one")
    assert done is not None
    model = tmp_path / "models" / "vessels"
    model.mkdir(parents=True)
    pointer = {"run": done.path, "manifest_sha256": done.manifest_sha256}
    (model / "champion.json").write_text(json.dumps({"current": pointer, "previous": None}))
    found = resolve(spec_of(finetune={"policy_uri": str(model)}))
    assert found.policy == (run.path / inputs.POLICY).resolve()
