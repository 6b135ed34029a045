"""A store that fails in the middle of a real job: what passes, what ends it with which code, what is said.

Single requests are in tests/storage/test_s3_faults.py; kills and races in tests/e2e/test_store.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from job.errors import IntegrityError
from job.publish.published import open_run
from job.storage import s3_client
from job.storage.uris import open_store
from tests.e2e.attempts import Attempt, Bench, poll
from tests.fault_proxy import (
    ACCESS_DENIED,
    CLOCK_SKEW,
    INTERNAL_ERROR,
    SLOW_DOWN,
    CutAnswer,
    CutRequest,
    Delay,
    Fault,
    FlipBit,
    Hold,
    PretendToStore,
    Refuse,
    open_proxy,
)
from tests.s3_server import Server

pytestmark = pytest.mark.timeout(600)  # a test is several runs, one after the other

TTL_S = 60.0


@pytest.fixture(scope="module")
def bench(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bucket with a dataset, in which an undisturbed run has ended: `fine`, on the disk of that name."""
    bench = Bench(s3_server, tmp_path_factory.mktemp("store-faults"), TTL_S)
    try:
        bench.fill()
        fine = bench.start(bench.output("fine"), bench.folder / "fine", run_id="whole")
        assert fine.end() == 0, fine.stderr
        yield bench
    finally:
        bench.close()


@pytest.fixture(autouse=True)
def _of_the_server(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_client.forget()


def results_digest(bench: Bench, output: str, run_id: str) -> str:
    """Return the digest of a run that readers see, every byte of which is right."""
    found = open_run(open_store(bench.output(output)), f"runs/tiny/{run_id}")
    assert found is not None
    assert found.verify() == []
    return found.manifest.results_digest


def require_one_readable_message(attempt: Attempt) -> None:
    """Cause and advice for people, one event, no traceback, nothing claimed."""
    lines = attempt.stderr.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "advice"], attempt.stderr
    (failed,) = attempt.named("job.failed")
    assert failed["message"] in lines[0]
    assert not attempt.named("run.published")
    assert not attempt.named("job.finished")


def is_deleted(client: Any, bucket: str) -> bool:
    """Delete a bucket with all that is in it; the job may have written more meanwhile."""
    for one in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=one["Key"])
    try:
        client.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketNotEmpty":
            raise
        return False
    return True


def test_what_passes_is_not_noticed_in_the_results(bench: Bench) -> None:
    """500, 503, busy, cut and slow answers, cut uploads and lost ones, from the first request to the last."""
    conflict = Refuse(409, "OperationAborted")
    faults = [
        Fault(INTERNAL_ERROR, "GetObject", "data/*", times=3, skip=2),
        Fault(CutAnswer(100), "GetObject", "data/images/*", times=2),
        Fault(Delay(0.5), "GetObject", "data/*", times=2),
        Fault(FlipBit(200), "GetObject", "rough/runs/*", times=1),
        Fault(PretendToStore(50), "PutObject", "rough/runs/*/report.html", times=1),
        Fault(CutRequest(50), "PutObject", "rough/stages/*", times=2),
        Fault(conflict, "PutObject", "rough/runs/*/attempt-1/*", times=3),
        Fault(conflict, "PutObject", "rough/runs/*/manifest.json", times=1),
        Fault(SLOW_DOWN, "*", "rough/*", times=6, skip=8),
        Fault(SLOW_DOWN, "List*", times=2),
    ]
    with open_proxy(bench.server, *faults) as proxy:
        job = bench.start(bench.output("rough"), bench.disk(), run_id="r", endpoint=proxy.endpoint)
        assert job.end() == 0, job.stderr
        assert [fault for fault in faults if fault.times] == []  # each did its worst
    assert results_digest(bench, "rough", "r") == results_digest(bench, "fine", "whole")


ENDS: dict[str, tuple[Fault, int, str, str]] = {
    "the rights are taken away": (Fault(ACCESS_DENIED, times=None), 3, "access denied", "s3:PutObject"),
    "the credentials expire": (
        Fault(Refuse(400, "ExpiredToken"), times=None), 3, "credentials have expired", "new credentials",
    ),
    "the clocks drift apart": (Fault(CLOCK_SKEW, times=None), 3, "clock", "NTP"),
    "no upload is kept": (
        Fault(PretendToStore(10), "PutObject", "*/attempt-1/report.html", times=None), 4,
        "though it was sent twice", "doctor",
    ),
    "the manifest cannot be created": (
        Fault(Refuse(412, "PreconditionFailed"), "PutObject", "*/manifest.json", times=None), 10,
        "manifest.json: the store says it is written, and does not show it", "same command",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_what_does_not_pass_ends_the_run_at_once(bench: Bench, name: str) -> None:
    """In the middle of a run, by its own code, with what to do; readers see nothing; later it goes on."""
    fault, code, message, advice = ENDS[name]
    run_id = name.replace(" ", "-")
    with open_proxy(bench.server) as proxy:
        job = bench.start(bench.output("fine"), bench.folder / "fine", run_id=run_id, endpoint=proxy.endpoint)
        assert job.wait_for("stage.reused", stage="pull")
        proxy.faults.append(fault)
        assert job.end() == code, job.stderr
    require_one_readable_message(job)
    assert message in job.stderr
    assert advice in job.stderr
    assert open_run(open_store(bench.output("fine")), f"runs/tiny/{run_id}") is None


def test_a_refusal_to_read_is_not_taken_for_nothing_there(bench: Bench) -> None:
    """On an empty disk, with what an earlier run made out of reach: exit 3 instead of starting afresh."""
    with open_proxy(bench.server, Fault(ACCESS_DENIED, "*Object", "fine/stages/*", times=None)) as proxy:
        job = bench.start(bench.output("fine"), bench.disk(), run_id="blind", endpoint=proxy.endpoint)
        assert job.end() == 3, job.stderr
    require_one_readable_message(job)
    assert not job.named("stage.started")
    assert "fine/stages/" in job.stderr


def test_an_input_that_changes_while_it_is_fetched_ends_the_run(bench: Bench) -> None:
    """The run is named for what was listed: exit 10 names the object, and the next attempt is another run."""
    client, bucket = bench.server.client(), bench.server.bucket
    objects = client.list_objects_v2(Bucket=bucket, Prefix="data/")["Contents"]
    for one in objects:
        source = f"{bucket}/{one['Key']}"
        client.copy_object(Bucket=bucket, Key=f"moving/{one['Key']}", CopySource=source)
    last = max(one["Key"] for one in objects if "/images/" in one["Key"])
    with open_proxy(bench.server, Fault(Hold(), "GetObject", f"moving/{last}")) as proxy:
        data = f"--set=data.uri=s3://{bucket}/moving/data"
        job = bench.start(bench.output("moving"), bench.disk(), data, endpoint=proxy.endpoint)
        assert job.wait_for("job.started")
        client.put_object(Bucket=bucket, Key=f"moving/{last}", Body=b"not what it was")
        proxy.released.set()
        assert job.end() == 10, job.stderr
    require_one_readable_message(job)
    assert "changed while it was being downloaded" in job.stderr


def test_a_bucket_that_is_deleted_ends_the_run(bench: Bench) -> None:
    """Exit 3: no retry brings it back, and what is on this disk is not taken for a published run."""
    client = bench.server.client()
    client.create_bucket(Bucket="doomed")
    job = bench.start("s3://doomed/results", bench.disk())
    assert job.wait_for("stage.started", stage="table")
    poll(lambda: is_deleted(client, "doomed"))
    assert job.end() == 3, job.stderr
    require_one_readable_message(job)
    assert "there is no such bucket" in job.stderr


def test_a_published_file_that_somebody_changed_is_found(bench: Bench) -> None:
    """Whoever verifies, and whoever uses it, is told with exit 4: nothing is built on it."""
    server, key = bench.server, "fine/runs/tiny/whole/attempt-1/reward/best_reward_net.safetensors"
    client = server.client()
    good = client.get_object(Bucket=server.bucket, Key=key)["Body"].read()
    client.put_object(Bucket=server.bucket, Key=key, Body=good[:-1] + bytes([good[-1] ^ 1]))
    try:
        status = bench.command("status", bench.output("fine"), "--verify")
        assert status.returncode == IntegrityError.exit_code, status.stderr
        assert "reward/best_reward_net.safetensors has other content" in status.stdout
        network = f"--set=reward.network.uri={bench.output('fine')}/runs/tiny/whole"
        job = bench.start(bench.output("other"), bench.disk(), network)
        assert job.end() == IntegrityError.exit_code, job.stderr
        require_one_readable_message(job)
    finally:
        client.put_object(Bucket=server.bucket, Key=key, Body=good)
