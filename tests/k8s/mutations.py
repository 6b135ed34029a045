"""Ways to break a manifest, each with who is the first to find it: `schema`, `server` or `house`."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tests.k8s.manifests import COMMON, Document, load, works

GONE = object()
"""Stands for a field that is taken away."""
QUICK, FULL, NIGHT = "quick-job.yaml", "full-job.yaml", "nightly-cronjob.yaml"


@dataclass(frozen=True)
class Mutation:
    """One change of one file."""

    what: str
    found_by: str
    file: str
    path: str
    """Keys and positions, from `document` (or `document:KIND`), `cron`, `job`, `pod` or `container` on."""
    value: Any

    def documents(self) -> list[Document]:
        """Return the file's documents with the change."""
        documents = deepcopy(load(self.file))
        start, *steps = self.path.split("|")
        place: Any = _start(documents, start)
        for step in steps[:-1]:
            place = place[int(step) if isinstance(place, list) else step]
        last = steps[-1]
        if isinstance(place, list):
            place[int(last) : int(last) + 1] = [] if self.value is GONE else [self.value]
        elif self.value is GONE:
            del place[last]
        else:
            place[last] = self.value
        return documents


def _start(documents: list[Document], start: str) -> Document:
    if start.startswith("document"):
        kind = start.partition(":")[2]
        return next(one for one in documents if not kind or one["kind"] == kind)
    (work,) = works(documents)
    pod = work.job["template"]["spec"]
    places = {"cron": work.document["spec"], "job": work.job, "pod": pod, "container": pod["containers"][0]}
    return places[start]


_RULES = "job|podFailurePolicy|rules"
_CODES = f"{_RULES}|2|onExitCodes|values"
_FIELD = "container|env|0|valueFrom|fieldRef|fieldPath"
_PORT = "document:NetworkPolicy|spec|egress|1|ports|0"
_IS_75 = {"operator": "In", "values": [75]}
_NAME = "app.kubernetes.io/name"
_SIZES = {"cpu": 4, "memory": "16Gi", "ephemeral-storage": "84Gi"}
MUTATIONS = [
    Mutation(*row)
    for row in (
        # Names, labels, kinds
        ("unknown field", "schema", FULL, "job|backofLimit", 3),
        ("wrong type", "schema", FULL, "job|backoffLimit", "6"),
        ("number in an argument", "schema", FULL, "container|args|1", 7),
        ("missing container name", "schema", FULL, "container|name", GONE),
        ("old API version", "schema", NIGHT, "document|apiVersion", "batch/v1beta1"),
        ("unknown kind", "schema", FULL, "document|kind", "Jobs"),
        ("name with capitals", "server", FULL, "document|metadata|name", "Full_Job"),
        ("name of a CronJob too long", "server", NIGHT, "document|metadata|name", "n" * 53),
        ("label's value", "server", FULL, f"document|metadata|labels|{_NAME}", "full job"),
        ("label's key", "server", FULL, "document|metadata|labels|/name", "x"),
        ("namespace forgotten", "house", FULL, "document|metadata|namespace", GONE),
        ("container's name", "server", FULL, "container|name", "the job"),
        ("variable's name", "server", FULL, "container|env|1|name", "JOB=CACHE_DIR"),
        ("variable with two values", "server", FULL, "container|env|0|value", "full"),
        ("downward field", "server", FULL, _FIELD, "metadata.jobName"),
        ("key of a ConfigMap", "server", COMMON, "document:ConfigMap|data|a key", "x"),
        ("level of Pod Security", "server", COMMON,
         "document:Namespace|metadata|labels|pod-security.kubernetes.io/enforce", "strict"),
        # When and how often
        ("cron with four fields", "server", NIGHT, "cron|schedule", "0 1 * *"),
        ("cron hour 24", "server", NIGHT, "cron|schedule", "0 24 * * *"),
        ("zone in the schedule", "server", NIGHT, "cron|schedule", "TZ=Etc/UTC 0 1 * * *"),
        ("unknown time zone", "server", NIGHT, "cron|timeZone", "Europe/Ulm"),
        ("concurrency policy", "server", NIGHT, "cron|concurrencyPolicy", "forbid"),
        ("negative history", "server", NIGHT, "cron|failedJobsHistoryLimit", -1),
        ("negative deadline", "server", FULL, "job|activeDeadlineSeconds", -1),
        # Failures
        ("restarted in place", "server", FULL, "pod|restartPolicy", "OnFailure"),
        ("restart policy forgotten", "server", FULL, "pod|restartPolicy", GONE),
        ("replaced while terminating", "server", FULL, "job|podReplacementPolicy", "TerminatingOrFailed"),
        ("exit codes out of order", "server", FULL, _CODES, [3, 2, 4, 5, 6]),
        ("exit code twice", "server", FULL, _CODES, [2, 3, 4, 5, 6, 6]),
        ("exit code 0", "server", FULL, _CODES, [0, 2, 3, 4, 5, 6]),
        ("action", "server", FULL, f"{_RULES}|2|action", "Fail"),
        ("other container's code", "server", FULL, f"{_RULES}|1|onExitCodes|containerName", "main"),
        ("code and condition", "server", FULL, f"{_RULES}|0|onExitCodes", _IS_75),
        ("a selector of its own", "server", FULL, "job|selector", {"matchLabels": {"a": "b"}}),
        # Resources and volumes
        ("bad quantity", "server", FULL, "container|resources|limits|memory", "16GB"),
        ("request above limit", "server", FULL, "container|resources|requests|memory", "32Gi"),
        ("GPU requested, not limited", "server", FULL, "container|resources|limits|nvidia.com/gpu", GONE),
        ("GPU request unlike limit", "server", FULL, "container|resources|limits|nvidia.com/gpu", 2),
        ("half a GPU", "server", FULL, "container|resources|limits|nvidia.com/gpu", "500m"),
        ("resource without a domain", "server", FULL, "container|resources|limits|gpu", 1),
        ("mount without volume", "server", FULL, "pod|volumes|2", GONE),
        ("volume's name twice", "server", FULL, "pod|volumes|1|name", "work"),
        ("mount path twice", "server", FULL, "container|volumeMounts|1|mountPath", "/work"),
        ("volume of two kinds", "server", FULL, "pod|volumes|0|configMap", {"name": "segmenter-rl-job-spec"}),
        ("volume's size", "server", FULL, "pod|volumes|0|emptyDir|sizeLimit", "20 Gi"),
        ("unknown medium", "house", FULL, "pod|volumes|3|emptyDir|medium", "RAM"),
        ("toleration with a value too many", "server", FULL, "pod|tolerations|0|value", "present"),
        ("port of the network policy", "server", COMMON, f"{_PORT}|port", 70000),
        ("protocol", "server", COMMON, f"{_PORT}|protocol", "HTTPS"),
        ("direction", "server", COMMON, "document:NetworkPolicy|spec|policyTypes", ["Egres"]),
        # Pod Security, by which the Pods never come up
        ("root", "server", FULL, "pod|securityContext|runAsNonRoot", False),
        ("seccomp forgotten", "server", FULL, "pod|securityContext|seccompProfile", GONE),
        ("capabilities kept", "server", FULL, "container|securityContext|capabilities", GONE),
        ("escalation", "server", FULL, "container|securityContext|allowPrivilegeEscalation", True),
        ("folder of the node", "server", FULL, "pod|volumes|1", {"name": "cache", "hostPath": {"path": "/"}}),
        # What a server takes, and the program stumbles over
        ("transient error fails the Job", "house", FULL, _CODES, [2, 3, 4, 5, 6, 10]),
        ("bad spec is tried again", "house", FULL, _CODES, [3, 4, 5, 6]),
        ("interruption counts", "house", FULL, f"{_RULES}|1", GONE),
        ("a lost node counts", "house", FULL, f"{_RULES}|0", GONE),
        ("a rule that hides another", "house", FULL, f"{_RULES}|1|onExitCodes|values", [3, 75]),
        ("no retries", "house", FULL, "job|backoffLimit", 0),
        ("killed before it has saved", "house", FULL, "pod|terminationGracePeriodSeconds", 60),
        ("deadlines in the wrong order", "house", FULL, "job|activeDeadlineSeconds", 21600),
        ("a night that lasts a day", "house", NIGHT, "job|activeDeadlineSeconds", 90000),
        ("nights that overlap", "house", NIGHT, "cron|concurrencyPolicy", "Allow"),
        ("night without a zone", "house", NIGHT, "cron|timeZone", GONE),
        ("missed night is lost", "house", NIGHT, "cron|startingDeadlineSeconds", 5),
        ("finished Jobs stay", "house", FULL, "job|ttlSecondsAfterFinished", GONE),
        ("no such spec", "house", FULL, "container|args|0", "specs/fulll.json"),
        ("no such field in the spec", "house", FULL, "container|args|1", "--set=output.url=/work/output"),
        ("no such option", "house", FULL, "container|args|1", "--output=/work/output"),
        ("a verb that runs nothing", "house", FULL, "container|args|0", "validate"),
        ("variable that nobody sets", "house", FULL, "container|env|2", GONE),
        ("variable that nobody reads", "house", FULL, "container|env|1|name", "JOB_CACHE"),
        ("run id that is new for each Pod", "house", FULL, _FIELD, "metadata.name"),
        ("no folder for downloads", "house", FULL, "container|env|1", GONE),
        ("output on the image", "house", QUICK, "container|args|1", "--set=output.uri=output"),
        ("no spec of the night", "house", NIGHT, "pod|volumes|4|configMap|name", "segmenter-rl-job-store"),
        ("no such ConfigMap", "house", NIGHT, "pod|volumes|4|configMap|name", "spec"),
        ("no such Secret", "house", FULL, "container|envFrom|1|secretRef", {"name": "store"}),
        ("no such account", "house", FULL, "pod|serviceAccountName", "trainer"),
        ("cache larger than its volume", "house", FULL, "container|args|4", "--set=cache.max_gb=100"),
        ("volumes above the limit", "house", FULL, "container|resources|limits|ephemeral-storage", "40Gi"),
        ("memory eaten by /dev/shm", "house", FULL, "pod|volumes|3|emptyDir|sizeLimit", "12Gi"),
        ("/dev/shm on the disk", "house", FULL, "pod|volumes|3|emptyDir|medium", GONE),
        ("volume without a limit", "house", FULL, "pod|volumes|0|emptyDir|sizeLimit", GONE),
        ("/tmp read-only", "house", FULL, "container|volumeMounts|2|readOnly", True),
        ("image written to", "house", FULL, "container|securityContext|readOnlyRootFilesystem", False),
        ("last words elsewhere", "house", FULL, "container|terminationMessagePath", "/tmp/words"),
        ("policy misses the Pods", "house", FULL, f"job|template|metadata|labels|{_NAME}", "full"),
        ("no GPU", "house", FULL, "container|resources", {"limits": _SIZES}),
        ("token of Kubernetes", "house", FULL, "pod|automountServiceAccountToken", True),
        ("other folder for specs", "house", FULL, "container|workingDir", "/work"),
    )
]  # fmt: skip
