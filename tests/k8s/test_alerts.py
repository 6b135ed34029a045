"""k8s/alerts.yaml: it says when something is wrong, and only then; its times agree with the manifests."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import Document, Work, load, works

HOUR = 3600
JOB = 'namespace="segmenter-rl-job", job_name="nightly-29374620"'
WAITING = 'kube_pod_status_phase{namespace="segmenter-rl-job", pod="full-x", phase="Pending"}'
CRON = 'namespace="segmenter-rl-job", cronjob="nightly"'
METRICS = {
    "kube_cronjob_status_last_successful_time", "kube_cronjob_created", "kube_cronjob_spec_suspend",
    "kube_job_failed", "kube_job_status_start_time", "kube_job_status_active", "kube_pod_status_phase",
}  # fmt: skip
"""Of kube-state-metrics, as its default configuration exports them."""


def rules() -> dict[str, Document]:
    """Return the rules by the name of their alert."""
    (document,) = load("alerts.yaml")
    return {rule["alert"]: rule for group in document["spec"]["groups"] for rule in group["rules"]}


def hours(alert: str) -> float:
    """Return the limit in a rule's expression."""
    return float(re.search(r"> (\d+) \* 3600", rules()[alert]["expr"]).group(1))


@pytest.fixture
def nightly() -> Work:
    (work,) = works(load("nightly-cronjob.yaml"))
    return work


def test_rules_look_at_known_metrics_of_our_namespace_alone() -> None:
    """An unknown metric never fires; another team's Jobs are not ours."""
    for name, rule in rules().items():
        expression = rule["expr"]
        used = set(re.findall(r"\bkube_\w+", expression))
        assert used <= METRICS, name
        assert expression.count('namespace="segmenter-rl-job"') == len(
            re.findall(r"\bkube_\w+\{", expression)
        )
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert "kubectl" in rule["annotations"]["description"]


def test_a_night_that_comes_late_is_no_alarm(nightly: Work) -> None:
    """From one success to the next it takes at most a day, the starting deadline, and the Job's own."""
    cron = nightly.document["spec"]
    longest_s = 24 * HOUR + cron["startingDeadlineSeconds"] + nightly.job["activeDeadlineSeconds"]
    assert longest_s < hours("SegmenterNightsDoNotSucceed") * HOUR < 48 * HOUR


def test_a_job_that_hangs_is_told_before_it_is_killed(nightly: Work) -> None:
    """After the in-process deadline, at which a healthy one ends, and before activeDeadlineSeconds."""
    deadline_s = float(nightly.environment([])["DEADLINE_S"])
    assert deadline_s < hours("SegmenterJobRunsLong") * HOUR < nightly.job["activeDeadlineSeconds"]


def case(series: dict[str, str], at: str, **expected: str) -> Document:
    """Return a test of promtool's: values of series every ten minutes, and which alerts fire at a time.

    The clock of such a test starts at 0 s.
    """
    alerts = []
    for name in rules():
        labels = dict(pair.split("=") for pair in expected.get(name, "").split(",") if pair)
        fired = (
            [{"exp_labels": {**labels, "namespace": "segmenter-rl-job"} | rules()[name]["labels"]}]
            if labels
            else []
        )
        alerts.append({"alertname": name, "eval_time": at, "exp_alerts": fired})
    return {
        "interval": "10m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": alerts,
    }


CASES = [
    # A success at 1:00, and now it is the evening of the same day; then two days without another.
    case({f"kube_cronjob_status_last_successful_time{{{CRON}}}": f"{HOUR}x300"}, "20h"),
    case(
        {f"kube_cronjob_status_last_successful_time{{{CRON}}}": f"{HOUR}x300"}, "38h",
        SegmenterNightsDoNotSucceed="cronjob=nightly",
    ),
    # Created at 0:00 and never successful: not on the first day, but on the second.
    case({f"kube_cronjob_created{{{CRON}}}": "0x300"}, "20h"),
    case({f"kube_cronjob_created{{{CRON}}}": "0x300"}, "37h", SegmenterNightsDoNotSucceed="cronjob=nightly"),
    # Neither wakes anybody while the nights are suspended; that is told by the other alert. Then they go on.
    case(
        {
            f"kube_cronjob_status_last_successful_time{{{CRON}}}": f"{HOUR}x300",
            f"kube_cronjob_spec_suspend{{{CRON}}}": "1x300",
        },
        "38h", SegmenterNightsSuspended="cronjob=nightly",
    ),
    case(
        {f"kube_cronjob_created{{{CRON}}}": "0x300", f"kube_cronjob_spec_suspend{{{CRON}}}": "0x300"}, "37h",
        SegmenterNightsDoNotSucceed="cronjob=nightly",
    ),
    # Created long ago, successful last night.
    case(
        {
            f"kube_cronjob_created{{{CRON}}}": "0x300",
            f"kube_cronjob_status_last_successful_time{{{CRON}}}": f"{30 * HOUR}x300",
        },
        "40h",
    ),
    # A Job that failed; another team's that failed.
    case(
        {f'kube_job_failed{{{JOB}, condition="true"}}': "1x10"}, "1h",
        SegmenterJobFailed="job_name=nightly-29374620",
    ),
    case({'kube_job_failed{namespace="other", job_name="a", condition="true"}': "1x10"}, "1h"),
    # Eight hours at work; eight hours after its start, but finished; six hours at work.
    case(
        {f"kube_job_status_start_time{{{JOB}}}": "0x60", f"kube_job_status_active{{{JOB}}}": "1x60"}, "8h",
        SegmenterJobRunsLong="job_name=nightly-29374620",
    ),
    case({f"kube_job_status_start_time{{{JOB}}}": "0x60", f"kube_job_status_active{{{JOB}}}": "0x60"}, "8h"),
    case({f"kube_job_status_start_time{{{JOB}}}": "0x60", f"kube_job_status_active{{{JOB}}}": "1x60"}, "6h"),
    # A Pod that waits for an hour, and one that was scheduled in time.
    case(
        {WAITING: "1x10"}, "1h",
        SegmenterPodWaits="pod=full-x",
    ),
    case({WAITING: "1 1 0x10"}, "1h"),
    # Suspended for two hours, and for two days.
    case({f"kube_cronjob_spec_suspend{{{CRON}}}": "1x300"}, "2h"),
    case(
        {f"kube_cronjob_spec_suspend{{{CRON}}}": "1x300"}, "30h",
        SegmenterNightsSuspended="cronjob=nightly",
    ),
]  # fmt: skip


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        reason = "no promtool: apt-get install prometheus"
        (pytest.fail if os.environ.get("CI") or os.environ.get("SYSTEM_TESTS") else pytest.skip)(reason)
    return found


@pytest.mark.system
def test_prometheus_itself_fires_when_it_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    """The rules are valid, and each case has exactly the alerts that it says."""

    def run(command: str, *names: str) -> None:
        done = subprocess.run(
            [promtool, command, "rules", *names], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    (document,) = load("alerts.yaml")
    write(tmp_path / "rules.yaml", document["spec"])
    run("check", "rules.yaml")
    cases = []
    for one in CASES:
        for test in one["alert_rule_test"]:
            for alert in test["exp_alerts"]:
                alert["exp_annotations"] = annotations(alert["exp_labels"], test)
        cases.append(one)
    write(
        tmp_path / "cases.yaml", {"rule_files": ["rules.yaml"], "evaluation_interval": "10m", "tests": cases}
    )
    run("test", "cases.yaml")


def write(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def annotations(labels: dict[str, str], test: Document) -> dict[str, str]:
    """Return an alert's texts as Prometheus writes them."""
    ages = {"38h": "1d 13h 0m 0s", "37h": "1d 13h 0m 0s", "8h": "8h 0m 0s"}
    texts = rules()[test["alertname"]]["annotations"]
    values = {f"$labels.{name}": value for name, value in labels.items()}
    values["$value | humanizeDuration"] = ages.get(test["eval_time"], "")
    return {
        name: re.sub(r"\{\{ (.*?) \}\}", lambda match: values[match[1]], text) for name, text in texts.items()
    }
