"""What neither schema nor server sees, and the program would stumble over. Each rule yields sentences.

Everything is held against the code: exit codes, limits, paths, variables, specs.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from job import cli, last_words, verbs
from job.doctor.credentials import SECRET, STEERING
from job.errors import (
    DeadlineReached,
    DeviceError,
    InputError,
    IntegrityError,
    Interrupted,
    InvalidResult,
    JobError,
    SpecError,
    TryAgain,
)
from job.inputs import RUN_ID_VARIABLE
from job.places import CACHE_VARIABLE
from job.spec.job import JobSpec
from job.spec.loading import load
from job.storage.uris import is_remote
from tests.k8s.manifests import IMAGE, ROOT, Document, Work, found, quantity, works

COMES_AGAIN = {
    one.exit_code for one in (SpecError, InputError, IntegrityError, InvalidResult, DeadlineReached)
}
"""However often a Pod is replaced."""
MAY_PASS = {TryAgain.exit_code, DeviceError.exit_code, JobError.exit_code}
JOB_NAME = "metadata.labels['batch.kubernetes.io/job-name']"
WORKING_DIRECTORY = "/app"
"""Where the image holds specs/, job/ and nothing that is written to."""
MARGIN_S = 5.0
"""Of the Pod's grace, for the kubelet and the container to end."""
WAITING_S = 1800.0
"""For a GPU and the image, which count as a Job's time and not as the process's."""
_DAY_S = 86_400
_GIB = 2**30


def house_problems(documents: list[Document], others: list[Document]) -> Iterator[str]:
    """Yield what is wrong with objects; `others` are those that they may name beside each other."""
    for document in documents:
        if document["kind"] != "Namespace" and "namespace" not in document["metadata"]:
            yield f"{document['kind']}: without a namespace it is put where the user happens to be"
    for work in works(documents):
        yield from _work(work, [*documents, *others])


def _work(work: Work, others: list[Document]) -> Iterator[str]:
    yield from _policy(work)
    yield from _pod(work)
    yield from _references(work, others)
    yield from _disks(work)
    yield from _variables(work, others)
    if work.container.get("command"):  # another program than the job
        return
    unresolved = [argument for argument in work.arguments(others) if "$(" in argument]
    if unresolved:
        yield f"nobody sets the variable in {unresolved}"
        return
    with TemporaryDirectory() as folder:
        try:
            spec = _spec(work, others, Path(folder))
        except JobError as error:
            yield f"the job refuses it: {error}"
            return
    yield from _limits(work, spec)
    yield from _places(work, spec, others)
    if work.document["kind"] == "CronJob":
        yield from _nights(work, spec)


def _policy(work: Work) -> Iterator[str]:
    rules = work.job.get("podFailurePolicy", {}).get("rules", [])
    ignored: set[int] = set()
    failing: set[int] = set()
    for rule in rules:
        codes = rule.get("onExitCodes", {})
        if codes and codes["operator"] != "In":
            yield "exit codes are named one by one"
        {"Ignore": ignored, "FailJob": failing}.get(rule["action"], set()).update(
            set(codes.get("values", [])) - ignored - failing  # the first rule that matches counts
        )
    first = rules[0] if rules else {}
    disrupted = [
        one["type"] for one in first.get("onPodConditions", []) if one.get("status", "True") == "True"
    ]
    if first.get("action") != "Ignore" or disrupted != ["DisruptionTarget"]:
        yield "the first rule ignores Pods that lost their node, whatever code they ended with"
    if ignored != {Interrupted.exit_code}:
        yield f"ignores {sorted(ignored)}, not {Interrupted.exit_code} (interrupted, progress saved)"
    if failing != COMES_AGAIN:
        yield f"fails at once on {sorted(failing)}, not on {sorted(COMES_AGAIN)}, which come again"
    if work.job.get("backoffLimit", 6) < 2:
        yield f"backoffLimit: {sorted(MAY_PASS)} may pass, and a lost lease takes a minute to run out"


def _pod(work: Work) -> Iterator[str]:
    pod, container = work.pod, work.container
    if pod.get("automountServiceAccountToken") is not False:
        yield "the job needs no token of Kubernetes"
    if pod.get("enableServiceLinks") is not False:
        yield "a Service named job would set variables named JOB_..."
    if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
        yield "the image is not written to"
    if pod.get("securityContext", {}).get("fsGroup") is None:
        yield "a volume belongs to root without fsGroup"
    if container["image"] == IMAGE and container.get("imagePullPolicy") != "IfNotPresent":
        yield "an image that a node has already (kind, minikube) would be looked for in a registry"
    if container.get("workingDir") != WORKING_DIRECTORY:
        yield f"specs/ lies in {WORKING_DIRECTORY}"
    said = work.environment([]).get(last_words.VARIABLE, str(last_words.KUBERNETES))
    if container.get("terminationMessagePath", "/dev/termination-log") != said:
        yield f"last words go to {said}"
    if container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        yield "of a killed process only its log tells"
    if work.job.get("ttlSecondsAfterFinished", 0) < (3600 if container.get("command") else _DAY_S):
        yield "a finished Job stays a day for whoever looks, and goes by itself"
    for name in ("memory", "cpu", "ephemeral-storage"):
        if name not in container.get("resources", {}).get("limits", {}):
            yield f"no limit of {name}: results depend on the number of CPUs, and a node on the rest"


def _references(work: Work, others: list[Document]) -> Iterator[str]:
    account = work.pod.get("serviceAccountName", "default")
    if account != "default" and not found(others, "ServiceAccount", account):
        yield f"no service account {account}"
    named = [(source, "envFrom") for source in work.container.get("envFrom", [])]
    named += [(one.get("valueFrom", {}), one["name"]) for one in work.container.get("env", [])]
    for source, where in named:
        for key, kind in (
            ("configMapRef", "ConfigMap"),
            ("secretRef", "Secret"),
            ("configMapKeyRef", "ConfigMap"),
        ):
            reference = source.get(key)
            if not reference or reference.get("optional"):
                continue
            objects = found(others, kind, reference["name"])
            if not objects:
                yield f"{where}: no {kind} {reference['name']}"
            elif "key" in reference and reference["key"] not in objects[0].get("data", {}):
                yield f"{where}: {kind} {reference['name']} has no {reference['key']}"
    for volume in work.pod.get("volumes", []):
        for kind, source, key in (
            ("ConfigMap", "configMap", "name"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            if source in volume and not found(others, kind, volume[source][key]):
                yield f"volume {volume['name']}: no {kind} {volume[source][key]}"
    labels = work.template.get("metadata", {}).get("labels", {})
    for policy in found(others, "NetworkPolicy"):
        if not policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items():
            yield "the network policy does not hold for these Pods"
    if not labels.items() >= work.document["metadata"]["labels"].items():
        yield "labels of the Job and of its Pods differ"


def _disks(work: Work) -> Iterator[str]:
    limits = work.container.get("resources", {}).get("limits", {})
    in_memory = on_disk = 0.0
    for volume in work.pod.get("volumes", []):
        if "emptyDir" not in volume:
            continue
        size = volume["emptyDir"].get("sizeLimit")
        if volume["emptyDir"].get("medium", "") not in ("", "Memory"):
            yield f"volume {volume['name']}: no kubelet knows the medium {volume['emptyDir']['medium']!r}"
        if size is None:
            yield f"volume {volume['name']} may fill the node"
        elif volume["emptyDir"].get("medium") == "Memory":
            in_memory += quantity(size)
        else:
            on_disk += quantity(size)
    if in_memory > quantity(limits.get("memory", 0)) / 4:
        yield "volumes in memory count as the container's own: at most a quarter of its limit"
    if on_disk > quantity(limits.get("ephemeral-storage", 0)):
        yield "volumes hold more than the limit of ephemeral-storage, at which the Pod is evicted"
    for path in ("/tmp", *(["/dev/shm", "/work"] if not work.container.get("command") else [])):
        mounted = work.volume(path)
        if mounted is None or "emptyDir" not in mounted[1] or mounted[0].get("readOnly"):
            yield f"{path} must be writable"
    shared = work.volume("/dev/shm")
    if shared is not None and shared[1].get("emptyDir", {}).get("medium") != "Memory":
        yield "/dev/shm is memory"


def _variables(work: Work, others: list[Document]) -> Iterator[str]:
    known = {RUN_ID_VARIABLE, CACHE_VARIABLE, last_words.VARIABLE, *STEERING, *SECRET}
    known.add("MODEL_URI") if work.container.get("command") else None
    used = " ".join(work.container.get("args", []))
    for name in work.environment(others):
        if name not in known and f"$({name})" not in used and name != "OUTPUT_URI":
            yield f"nobody reads the variable {name}"
    if work.container.get("command"):
        return
    named = [one for one in work.container.get("env", []) if one["name"] == RUN_ID_VARIABLE]
    if [one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") for one in named] != [JOB_NAME]:
        yield f"{RUN_ID_VARIABLE} is the Job's name: the same for a Pod that replaces another, new each night"


def _spec(work: Work, others: list[Document], folder: Path) -> JobSpec:
    """Return the job's spec with its overrides; raises what the command line would raise."""
    words = work.arguments(others)
    if words and words[0] not in verbs.VERBS:
        words.insert(0, "run")
    options = cli._parser().parse_args(words)
    if options.command is not cli._run:
        raise SpecError(f"a Job runs a spec, not {words[0]!r}")
    path = str(Path(WORKING_DIRECTORY) / options.spec)
    mounted = work.volume(path)
    if mounted is None:
        place = ROOT / Path(path).relative_to(WORKING_DIRECTORY)
    else:
        mount, volume = mounted
        place = folder / Path(path).relative_to(mount["mountPath"])
        for config in found(others, "ConfigMap", volume.get("configMap", {}).get("name", "")):
            for key, text in config["data"].items():
                (folder / key).write_text(text, encoding="utf-8")
    return load(str(place), overrides=options.overrides).spec


def _limits(work: Work, spec: JobSpec) -> Iterator[str]:
    grace_s, runtime = work.pod.get("terminationGracePeriodSeconds", 30), spec.runtime
    if grace_s < runtime.interrupt_grace_s + MARGIN_S:
        yield f"killed after {grace_s} s, while the job may take {runtime.interrupt_grace_s:g} and a few more"
    active_s = work.job.get("activeDeadlineSeconds")
    if active_s is None:
        yield "no activeDeadlineSeconds: a Pod that waits for ever is never given up"
    elif runtime.deadline_s is None:
        if active_s > 2 * 3600:
            yield "a Job of hours needs runtime.deadline_s, which saves before activeDeadlineSeconds kills"
    elif active_s < runtime.deadline_s + grace_s + WAITING_S:
        yield f"activeDeadlineSeconds {active_s} kills before deadline_s {runtime.deadline_s:g} can save"
    resources = work.container.get("resources", {})
    if "nvidia.com/gpu" not in resources.get("limits", {}):
        yield "no GPU"
    wanted = [one for one in work.pod.get("tolerations", []) if one.get("key") == "nvidia.com/gpu"]
    if not wanted:
        yield "nodes with a GPU often keep others away by the taint nvidia.com/gpu"


def _places(work: Work, spec: JobSpec, others: list[Document]) -> Iterator[str]:
    cache = spec.cache.uri or work.environment(others).get(CACHE_VARIABLE)
    outputs = {"output.uri": spec.output.uri, "cache": cache}
    is_small = work.job.get("activeDeadlineSeconds", 0) <= 2 * 3600
    if cache is None and not is_small:
        yield f"{CACHE_VARIABLE} names no folder for downloads"
    for what, place in outputs.items():
        if place is None or is_remote(place):
            continue
        mounted = work.volume(str(Path(WORKING_DIRECTORY) / place))
        if mounted is None or mounted[0].get("readOnly") or "configMap" in mounted[1]:
            yield f"{what}: {place} cannot be written"
        elif what == "cache" and "emptyDir" in mounted[1]:
            most = 2 * spec.cache.max_gb * 1e9  # downloads, and as much of the working copy
            if most + 10 * _GIB > quantity(mounted[1]["emptyDir"]["sizeLimit"]):
                yield f"cache.max_gb {spec.cache.max_gb:g} lets the volume fill, and the Pod is evicted"
    inputs = [spec.data.uri, spec.segmenter.uri]
    for place in inputs:
        if place.startswith("/") and work.volume(place) is None:
            yield f"no volume at {place}"


def _nights(work: Work, spec: JobSpec) -> Iterator[str]:
    cron = work.document["spec"]
    if cron.get("concurrencyPolicy") != "Forbid":
        yield "nights must not overlap"
    if not cron.get("timeZone"):
        yield "without timeZone the night is where the controller stands"
    if not 600 <= cron.get("startingDeadlineSeconds", 0) < _DAY_S / 2:
        yield "startingDeadlineSeconds: a night that was missed starts late, within hours, or not at all"
    if min(cron.get(f"{which}JobsHistoryLimit", 0) for which in ("successful", "failed")) < 1:
        yield "the last night stays to be looked at"
    if work.job.get("activeDeadlineSeconds", _DAY_S) >= _DAY_S:
        yield "a night that hangs would take the next one with it"
    if not is_remote(spec.output.uri):
        yield f"output.uri {spec.output.uri} goes with the Pod: the next night finds no champion"
