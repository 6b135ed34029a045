"""docker/compose.yaml: a store and the job, held to what the image and the program are."""

from typing import Any

import pytest
import yaml

from job.spec.loading import load
from tests.image.engine import ROOT

CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]


def test_the_job_waits_for_the_store_and_finds_it(services: dict[str, Any]) -> None:
    """It knows the store by its service's name and port, with the credentials that the store was given."""
    store, job = services["store"], services["job"]
    port = next(word.partition("=")[2] for word in store["command"] if word.startswith("-s3.port"))
    assert job["environment"]["AWS_ENDPOINT_URL_S3"] == f"http://store:{port}"
    assert port in store["healthcheck"]["test"][-1]
    assert job["depends_on"] == {"store": {"condition": "service_healthy"}}
    assert {name: job["environment"][name] for name in CREDENTIALS} == {
        name: store["environment"][name] for name in CREDENTIALS
    }
    assert all(published.startswith("127.0.0.1:") for published in store["ports"])


def test_its_spec_is_in_the_image_and_its_results_go_to_the_stores_bucket(services: dict[str, Any]) -> None:
    """The command is one that the program takes; the bucket is the one that the store makes."""
    spec, flag, override = services["job"]["command"]
    assert flag == "--set"
    loaded = load(str(ROOT / spec), overrides=[override])
    bucket = services["store"]["environment"]["S3_BUCKET"]
    assert loaded.spec.output.uri.startswith(f"s3://{bucket}/")


def test_the_job_has_no_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    """Read-only but for /tmp, no capabilities, no new privileges, and time to save when it is stopped."""
    job = services["job"]
    assert job["read_only"] is True
    assert job["tmpfs"] == ["/tmp:mode=1777"]  # noqa: S108 - in the container
    assert job["cap_drop"] == ["ALL"]
    assert job["security_opt"] == ["no-new-privileges:true"]
    grace_s = load(str(ROOT / "specs/quick.json"), overrides=[]).spec.runtime.interrupt_grace_s
    assert int(job["stop_grace_period"].removesuffix("s")) > grace_s


def test_it_builds_the_repositorys_own_image(services: dict[str, Any]) -> None:
    """The context is the repository, and the arguments are the Dockerfile's."""
    build = services["job"]["build"]
    assert (ROOT / "docker" / build["context"]).resolve() == ROOT
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert all(f"\nARG {name}" in dockerfile for name in build["args"])
