"""Everything together, on a real store and without one."""

import json
from pathlib import Path

import boto3
import pytest

from job import doctor
from job.doctor import credentials, examination, machine, stores
from job.doctor.findings import Finding
from job.storage import s3_client
from job.storage.preflight import Preflight
from job.storage.uris import open_store
from tests.fault_proxy import ACCESS_DENIED, Fault, open_proxy
from tests.s3_server import Server


def by_part(findings: list[Finding]) -> dict[str, Finding]:
    """The last finding of each part."""
    return {one.part: one for one in findings}


def write_spec(folder: Path, **sections: object) -> str:
    path = folder / "spec.json"
    path.write_text(json.dumps({"name": "x", **sections}))
    return str(path)


def test_the_machine_alone_is_examined_without_a_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part has a finding, and no store is asked."""
    monkeypatch.chdir(tmp_path)
    found = by_part(doctor.examine())
    assert set(found) >= {"gpu", "cpu", "memory", "output", "temporary files", "software", "environment"}
    assert "credentials" not in found
    assert list(tmp_path.iterdir()) == []


def test_a_broken_part_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kind is told, never its words, which may hold anything; what it found before stays."""

    def broken() -> object:
        yield Finding("ok", "memory", "half")
        raise RuntimeError("canary")

    whole = {one.part for one in doctor.examine(str(tmp_path))}
    monkeypatch.setattr(machine, "memory", broken)
    findings = doctor.examine(str(tmp_path))
    assert {one.part for one in findings} == whole
    assert [one.what for one in findings if one.part == "memory"] == [
        "half", "could not be examined (RuntimeError)",
    ]  # fmt: skip
    assert "canary" not in doctor.to_json(findings)
    assert doctor.exit_code(findings) == 3


def test_a_spec_with_problems_leaves_the_machine_to_examine(tmp_path: Path) -> None:
    """Each problem is a finding; one that is no file is a problem too."""
    found = by_part(doctor.examine(write_spec(tmp_path, seed=-1)))
    assert "seed" in found["spec"].what
    assert found["cpu"].severity == "ok"
    assert by_part(doctor.examine(str(tmp_path / "none.json")))["spec"].severity == "error"


def test_every_place_of_a_spec_is_found(tmp_path: Path) -> None:
    """Inputs wherever they stand, sweeps too; what ships with the program and the cache are no places."""
    from job.spec.loading import load

    source = write_spec(
        tmp_path,
        data={"uri": "s3://bucket/data", "unlabelled_uri": "photos"},
        evaluate={"datasets": [{"name": "other", "uri": "s3://bucket/other"}]},
        reward={"network": {"uri": "s3://bucket/runs/x"}},
        actions={"prompts": ["s3://not-a-place/for-sure"]},
        cache={"uri": "somewhere"},
        output={"uri": "s3://bucket/results"},
    )
    places = stores.places_of(load(source).spec)
    assert [(place.field, place.uri) for place in places] == [
        ("data.uri", "s3://bucket/data"),
        ("data.unlabelled_uri", "photos"),
        ("reward.network.uri", "s3://bucket/runs/x"),
        ("evaluate.datasets[0].uri", "s3://bucket/other"),
        ("output.uri", "s3://bucket/results"),
    ]
    assert [place.is_output for place in places] == [False] * 4 + [True]


def test_local_inputs_are_looked_for(tmp_path: Path) -> None:
    """A folder that is there is fine, one that is not is an error."""
    (tmp_path / "data").mkdir()
    spec = write_spec(
        tmp_path,
        data={"uri": str(tmp_path / "data"), "unlabelled_uri": str(tmp_path / "none")},
        output={"uri": str(tmp_path / "out")},
    )
    found = by_part(doctor.examine(spec))
    assert found["data.uri"].severity == "ok"
    assert found["data.unlabelled_uri"].what.endswith("does not exist")


def test_a_real_store_is_probed(
    s3_prefix: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs are read, the output is written and left empty; a missing one is told beside the others."""
    monkeypatch.setenv("JOB_CACHE_DIR", str(tmp_path / "cache"))
    bucket, _, prefix = s3_prefix.removeprefix("s3://").partition("/")
    boto3.session.Session().client("s3").put_object(Bucket=bucket, Key=f"{prefix}/data/a.png", Body=b"x")
    spec = write_spec(
        tmp_path,
        data={"uri": f"{s3_prefix}/data"},
        evaluate={"datasets": [{"name": "a", "uri": f"{s3_prefix}/none"}]},
        finetune={"policy_uri": f"{s3_prefix}/data/a.png"},
        output={"uri": f"{s3_prefix}/out"},
    )
    findings = doctor.examine(spec)
    found = by_part(findings)
    assert found["data.uri"].what == f"{s3_prefix}/data can be listed and read"
    assert found["finetune.policy_uri"].severity == "ok"
    assert found["evaluate.datasets[0].uri"].what == f"{s3_prefix}/none: nothing is there"
    assert found["output.uri"].what.startswith(f"{s3_prefix}/out can be written, read and deleted")
    assert found["cache"].severity in ("ok", "warning")
    assert s3_server.endpoint in found["environment"].what
    assert s3_server.secret_key not in doctor.to_json(findings)
    assert s3_server.access_key not in doctor.to_text(findings)
    left = boto3.session.Session().client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/out")
    assert left["KeyCount"] == 0


def test_an_input_is_read_and_not_only_looked_at(
    s3_prefix: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists and sizes may be given where content is refused: a byte is asked for, after few requests."""
    store = open_store(s3_prefix)
    store.write("data/images/left/a.png", b"x" * 1000)
    store.write("empty/marker", b"")
    spec = write_spec(
        tmp_path,
        data={"uri": f"{s3_prefix}/data"},
        finetune={"policy_uri": f"{s3_prefix}/data/images/left/a.png"},
        segmenter={"uri": f"{s3_prefix}/empty"},
        output={"uri": str(tmp_path / "out")},
    )
    severities = {}
    for faults in ([], [Fault(ACCESS_DENIED, "GetObject", times=None)]):
        with open_proxy(s3_server, *faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
            s3_client.forget()
            found = by_part(doctor.examine(spec))
            listings = proxy.count("ListObjects*")
            severities[len(faults)] = [
                found[part].severity for part in ("data.uri", "finetune.policy_uri", "segmenter.uri")
            ]
    assert severities == {0: ["ok"] * 3, 1: ["error"] * 3}
    assert "a.png" in found["data.uri"].what
    assert found["data.uri"].advice
    assert listings <= 5


def test_what_a_store_refuses_is_said_with_advice(s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong secret and a missing bucket are told apart, without the secret."""
    missing = by_part(doctor.examine("s3://surely-no-such-bucket/x"))["output"]
    assert "no such bucket" in missing.what
    assert missing.advice
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-secret")
    s3_client.forget()
    findings = doctor.examine(s3_prefix)
    assert "secret key does not fit" in by_part(findings)["output"].what
    assert "canary-wrong-secret" not in doctor.to_json(findings)
    assert doctor.exit_code(findings) == 3


def test_secrets_are_hidden_in_words_of_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a store's error repeats, no secret of the environment gets through."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-value")

    def leaky() -> list[Finding]:
        return [Finding("error", "environment", "tried canary-secret-value", "drop canary-secret-value")]

    monkeypatch.setattr(credentials, "environment", leaky)
    assert "canary" not in doctor.to_json(doctor.examine(str(tmp_path)))


@pytest.mark.parametrize(
    ("preflight", "told"),
    [
        (Preflight(True, 0.2, 0.1), []),
        (Preflight(False, 0.2, 0.1), ["conditional writes"]),
        (Preflight(True, -300.0, 0.1), ["300 s behind"]),
        (Preflight(True, 90.0, 12.0), ["90 s ahead of", "slow: 12 s"]),
    ],
)
def test_what_a_probe_finds_is_weighed(
    monkeypatch: pytest.MonkeyPatch, preflight: Preflight, told: list[str]
) -> None:
    """A store that works may still lack conditions, have another time, or be far away."""
    monkeypatch.setattr(stores, "open_store", lambda uri: None)
    monkeypatch.setattr(stores.preflight, "check", lambda store: preflight)
    first, *warned = stores.store(stores.Place("output.uri", "s3://bucket/x", is_output=True))
    assert first.severity == "ok"
    assert len(warned) == len(told)
    for one, words in zip(warned, told, strict=True):
        assert one.severity == "warning"
        assert words in one.what


def test_a_subject_is_a_spec_or_a_place(tmp_path: Path) -> None:
    """By its name, or as a file that is there."""
    file = tmp_path / "spec"
    file.write_text("{}")
    assert [examination.is_spec(s) for s in ("-", "a.json", "s3://b/a.json", str(file))] == [True] * 4
    assert [examination.is_spec(s) for s in ("s3://b/a", str(tmp_path), "out")] == [False] * 3
