"""What an API server refuses of an object, beyond its schema: sentences that say what is wrong."""

import ipaddress
import re
import zoneinfo
from collections.abc import Iterator

from tests.k8s.manifests import Document, quantity
from tests.k8s.pod_rules import KEY, LABEL, SUBDOMAIN, labels, pod_problems, qualified

LONGEST = {"Job": 63, "CronJob": 52, "Namespace": 63}
"""Of names; of a CronJob's, as its Jobs add eleven characters."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, _MONTHS), (0, 6, _DAYS))


def server_problems(document: Document) -> Iterator[str]:
    """Yield what is wrong with an object."""
    kind, metadata = document["kind"], document.get("metadata", {})
    name = metadata.get("name", "")
    pattern = LABEL if kind == "Namespace" else SUBDOMAIN
    if not pattern.fullmatch(name) or len(name) > LONGEST.get(kind, 253):
        yield f"{kind} name {name!r}"
    yield from labels(metadata)
    if kind == "Job":
        yield from _job(document["spec"])
    elif kind == "CronJob":
        yield from _cron_job(document["spec"])
    elif kind == "NetworkPolicy":
        yield from _network_policy(document["spec"])
    elif kind in ("ConfigMap", "Secret"):
        for key in {**document.get("data", {}), **document.get("stringData", {})}:
            if not KEY.fullmatch(key) or key in (".", ".."):
                yield f"key {key!r}"
    elif kind == "PersistentVolumeClaim":
        yield from _claim(document["spec"])
    elif kind == "Namespace":
        yield from _pod_security(metadata.get("labels", {}))


def _job(job: Document) -> Iterator[str]:
    for name in (
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "completions",
        "parallelism",
    ):
        if job.get(name, 0) < 0:
            yield f"{name} is negative"
    if "selector" in job:
        yield "selector: a Job makes its own"
    policy = job.get("podFailurePolicy")
    restart = job["template"]["spec"].get("restartPolicy", "Always")
    if restart not in ("Never", "OnFailure"):
        yield f"restartPolicy {restart!r}"
    if policy is None:
        if job.get("podReplacementPolicy", "Failed") not in ("Failed", "TerminatingOrFailed"):
            yield f"podReplacementPolicy {job['podReplacementPolicy']!r}"
    else:
        if restart != "Never":
            yield "podFailurePolicy needs restartPolicy Never"
        if job.get("podReplacementPolicy", "Failed") != "Failed":
            yield "podFailurePolicy needs podReplacementPolicy Failed"
        containers = {one["name"] for one in job["template"]["spec"]["containers"]}
        for rule in policy["rules"]:
            yield from _rule(rule, containers)
    yield from pod_problems(job["template"])


def _rule(rule: Document, containers: set[str]) -> Iterator[str]:
    if rule.get("action") not in ("Ignore", "FailJob", "Count"):
        yield f"action {rule.get('action')!r}"
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
    if bool(codes) == bool(conditions):
        yield "a rule of podFailurePolicy looks at exit codes or at conditions"
    if codes:
        values = codes.get("values", [])
        if codes.get("operator") not in ("In", "NotIn"):
            yield f"operator {codes.get('operator')!r}"
        if not values or values != sorted(set(values)):
            yield f"exit codes {values}: ascending, each once"
        if codes.get("operator") == "In" and 0 in values:
            yield "exit code 0 is no failure"
        if codes.get("containerName") not in (None, *containers):
            yield f"no container {codes['containerName']!r}"
    for condition in conditions or ():
        yield from qualified(condition["type"])
        if condition.get("status", "True") not in ("True", "False", "Unknown"):
            yield f"status {condition['status']!r}"


def _cron_job(cron: Document) -> Iterator[str]:
    yield from _schedule(cron["schedule"])
    zone = cron.get("timeZone")
    if zone is not None and (zone.lower() == "local" or zone not in zoneinfo.available_timezones()):
        yield f"unknown time zone {zone!r}"
    if cron.get("concurrencyPolicy", "Allow") not in ("Allow", "Forbid", "Replace"):
        yield f"concurrencyPolicy {cron['concurrencyPolicy']!r}"
    for name in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        if cron.get(name, 0) < 0:
            yield f"{name} is negative"
    yield from labels(cron["jobTemplate"].get("metadata", {}))
    yield from _job(cron["jobTemplate"]["spec"])


def _schedule(schedule: str) -> Iterator[str]:
    if "TZ" in schedule:
        yield "schedule: the zone stands in timeZone"
        return
    if schedule.startswith("@"):
        if schedule[1:] not in ("yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"):
            yield f"schedule {schedule!r}"
        return
    fields = schedule.split()
    if len(fields) != len(_CRON):
        yield f"schedule {schedule!r} has {len(fields)} fields, not {len(_CRON)}"
        return
    for field, (low, high, names) in zip(fields, _CRON, strict=True):
        for part in field.split(","):
            if not _is_part(part.lower(), low, high, names):
                yield f"schedule {schedule!r}: {part!r}"


def _is_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    ends = []
    for end in span.split("-"):
        if not (end.isdecimal() or end in names):
            return False
        ends.append(int(end) if end.isdecimal() else names.index(end) + low)
    return len(ends) in (1, 2) and ends == sorted(ends) and all(low <= end <= high for end in ends)


def _network_policy(policy: Document) -> Iterator[str]:
    if not set(policy.get("policyTypes", [])) <= {"Ingress", "Egress"}:
        yield f"policyTypes {policy['policyTypes']}"
    yield from _selector(policy["podSelector"])
    for rule in [*policy.get("egress", []), *policy.get("ingress", [])]:
        for port in rule.get("ports", []):
            if port.get("protocol", "TCP") not in ("TCP", "UDP", "SCTP"):
                yield f"protocol {port['protocol']!r}"
            number = port.get("port", 1)
            if isinstance(number, int) and not 1 <= number <= 65535:
                yield f"port {number}"
            if isinstance(number, str) and not re.fullmatch(r"(?=.*[a-z])[a-z0-9](-?[a-z0-9]){0,14}", number):
                yield f"port {number!r}"
        for peer in [*rule.get("to", []), *rule.get("from", [])]:
            if not peer:
                yield "a peer needs a selector or a block"
            if "ipBlock" in peer:
                yield from _block(peer["ipBlock"])
            for selector in ("podSelector", "namespaceSelector"):
                yield from _selector(peer.get(selector, {}))


def _block(block: Document) -> Iterator[str]:
    try:
        network = ipaddress.ip_network(block["cidr"])
        exceptions = [ipaddress.ip_network(one) for one in block.get("except", [])]
    except ValueError as error:
        yield f"ipBlock: {error}"
    else:
        if not all(one.version == network.version and one.subnet_of(network) for one in exceptions):  # type: ignore[arg-type]
            yield "ipBlock: except lies outside"


def _selector(selector: Document) -> Iterator[str]:
    yield from labels({"labels": selector.get("matchLabels", {})})
    for one in selector.get("matchExpressions", []):
        if one["operator"] not in ("In", "NotIn", "Exists", "DoesNotExist"):
            yield f"selector operator {one['operator']!r}"
        if (one["operator"] in ("In", "NotIn")) != bool(one.get("values")):
            yield f"selector {one['key']}: values"


def _claim(claim: Document) -> Iterator[str]:
    modes = set(claim.get("accessModes", []))
    if not modes or not modes <= {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}:
        yield f"accessModes {sorted(modes)}"
    try:
        if quantity(claim.get("resources", {}).get("requests", {}).get("storage")) <= 0:
            yield "a claim asks for more than nothing"
    except ValueError as error:
        yield f"storage: {error}"


def _pod_security(given: Document) -> Iterator[str]:
    for mode in ("enforce", "audit", "warn"):
        level = given.get(f"pod-security.kubernetes.io/{mode}", "restricted")
        version = given.get(f"pod-security.kubernetes.io/{mode}-version", "latest")
        if level not in ("privileged", "baseline", "restricted"):
            yield f"Pod Security level {level!r}"
        if version != "latest" and not re.fullmatch(r"v1\.\d+", version):
            yield f"Pod Security version {version!r}"
