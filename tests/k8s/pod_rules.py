"""What an API server refuses of a Pod's template, beyond its schema: sentences that say what is wrong.

The rules are those of Kubernetes 1.31 to 1.37 for the fields that these manifests use.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.k8s.manifests import Document, quantity

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
KEY = re.compile(r"[-._a-zA-Z0-9]+")
FIELDS = re.compile(
    r"metadata\.(name|namespace|uid)|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs)"
    r"|metadata\.(labels|annotations)\['(?P<key>[^']+)'\]"
)
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip
NATIVE = {"cpu", "memory", "ephemeral-storage"}


def pod_problems(template: Document) -> Iterator[str]:
    """Yield what is wrong with a Pod's template."""
    pod = template["spec"]
    yield from labels(template.get("metadata", {}))
    yield from _volumes(pod.get("volumes", []))
    containers = pod.get("containers", [])
    yield from _unique("container", [one["name"] for one in containers])
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in containers:
        yield from _container(container, volumes)
        yield from _restricted(pod, container)
    for name in ("terminationGracePeriodSeconds", "activeDeadlineSeconds"):
        if pod.get(name, 1) < (name == "activeDeadlineSeconds"):
            yield f"{name} is too small"
    yield from _tolerations(pod.get("tolerations", []))
    yield from _identity(pod)


def labels(metadata: Document) -> Iterator[str]:
    """Yield what is wrong with labels and annotations."""
    for name, value in metadata.get("labels", {}).items():
        yield from qualified(name)
        if value and not PART.fullmatch(value):
            yield f"label {name}: {value!r} is no value of a label"
    for name in metadata.get("annotations", {}):
        yield from qualified(name.lower())


def qualified(name: str) -> Iterator[str]:
    """Yield whether a name is not PREFIX/NAME, as those of labels, taints and resources are."""
    prefix, slash, last = name.rpartition("/")
    if not PART.fullmatch(last) or (slash and not (SUBDOMAIN.fullmatch(prefix) and len(prefix) <= 253)):
        yield f"{name!r} is no qualified name"


def _container(container: Document, volumes: set[str]) -> Iterator[str]:
    name = container["name"]
    if not LABEL.fullmatch(name):
        yield f"container name {name!r}"
    image = container.get("image", "")
    if not image or image != image.strip():
        yield f"image {image!r}"
    yield from _one_of(container, "imagePullPolicy", ("Always", "IfNotPresent", "Never"))
    yield from _one_of(container, "terminationMessagePolicy", ("File", "FallbackToLogsOnError"))
    for variable in container.get("env", []):
        yield from _variable(variable)
    for source in container.get("envFrom", []):
        if len(source.keys() - {"prefix"}) != 1:
            yield "envFrom needs one source"
    yield from _resources(container.get("resources", {}))
    yield from _mounts(container.get("volumeMounts", []), volumes)
    yield from _ports(container.get("ports", []))


def _variable(variable: Document) -> Iterator[str]:
    name, source = variable["name"], variable.get("valueFrom")
    if not VARIABLE.fullmatch(name):
        yield f"variable name {name!r}"
    if source is None:
        return
    if variable.get("value"):
        yield f"variable {name}: value and valueFrom"
    if len(source) != 1:
        yield f"variable {name}: valueFrom needs one source"
    if "fieldRef" in source:
        match = FIELDS.fullmatch(source["fieldRef"]["fieldPath"])
        if match is None:
            yield f"variable {name}: no field {source['fieldRef']['fieldPath']}"
        elif match["key"]:
            yield from qualified(match["key"])


def _resources(resources: Document) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    good = True
    for what, value in [*requests.items(), *limits.items()]:
        try:
            number = quantity(value)
        except ValueError as error:
            good = False
            yield f"{what}: {error}"
            continue
        if number < 0:
            yield f"{what}: {value} is negative"
        if what not in NATIVE:
            if "/" not in what and not what.startswith("hugepages-"):
                yield f"{what!r} is no resource of a container"
            yield from qualified(what)
            if number != int(number):
                yield f"{what}: {value} is not whole"
    for what, value in requests.items() if good else ():
        if what in limits and quantity(value) > quantity(limits[what]):
            yield f"{what}: the request {value} is more than the limit {limits[what]}"
        if what not in NATIVE and (what not in limits or quantity(value) != quantity(limits[what])):
            yield f"{what}: the request must equal the limit, as it cannot be overcommitted"


def _mounts(mounts: list[Document], volumes: set[str]) -> Iterator[str]:
    yield from _unique("mount path", [mount["mountPath"] for mount in mounts])
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"mount {mount['mountPath']}: no volume {mount['name']!r}"
        if not mount["mountPath"] or ":" in mount["mountPath"]:
            yield f"mount path {mount['mountPath']!r}"
        sub = mount.get("subPath", "")
        if sub.startswith("/") or ".." in sub.split("/"):
            yield f"subPath {sub!r}"


def _volumes(volumes: list[Document]) -> Iterator[str]:
    yield from _unique("volume", [volume["name"] for volume in volumes])
    for volume in volumes:
        name, sources = volume["name"], volume.keys() - {"name"}
        if not LABEL.fullmatch(name):
            yield f"volume name {name!r}"
        if len(sources) != 1:
            yield f"volume {name}: needs one source, has {sorted(sources)}"
        if not sources <= RESTRICTED_VOLUMES:
            yield f"volume {name}: {sorted(sources)} is not allowed by restricted Pod Security"
        empty = volume.get("emptyDir") or {}
        if "sizeLimit" in empty:
            try:
                size = quantity(empty["sizeLimit"])
            except ValueError as error:
                yield f"volume {name}: {error}"
            else:
                if size < 0:
                    yield f"volume {name}: sizeLimit is negative"
        for kind, key in (("persistentVolumeClaim", "claimName"), ("configMap", "name")):
            if kind in volume and not SUBDOMAIN.fullmatch(volume[kind].get(key, "")):
                yield f"volume {name}: {kind} {volume[kind].get(key)!r}"


def _tolerations(tolerations: list[Document]) -> Iterator[str]:
    for toleration in tolerations:
        operator = toleration.get("operator", "Equal")
        if operator not in ("Equal", "Exists"):
            yield f"toleration operator {operator!r}"
        if operator == "Exists" and toleration.get("value"):
            yield "a toleration with Exists has no value"
        if toleration.get("effect", "") not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield f"toleration effect {toleration['effect']!r}"
        if toleration.get("key"):
            yield from qualified(toleration["key"])
        elif operator != "Exists":
            yield "a toleration without a key must be Exists"


def _ports(ports: list[Document]) -> Iterator[str]:
    yield from _unique("port", [port["name"] for port in ports if "name" in port])
    for port in ports:
        if not 1 <= port["containerPort"] <= 65535:
            yield f"port {port['containerPort']}"


def _identity(pod: Document) -> Iterator[str]:
    account = pod.get("serviceAccountName", "")
    if account and not SUBDOMAIN.fullmatch(account):
        yield f"service account {account!r}"
    for security in (
        pod.get("securityContext", {}),
        *(one.get("securityContext", {}) for one in pod["containers"]),
    ):
        for name in ("runAsUser", "runAsGroup", "fsGroup"):
            if not 0 <= security.get(name, 0) < 2**31:
                yield f"{name} {security[name]}"
        yield from _one_of(security, "fsGroupChangePolicy", ("Always", "OnRootMismatch"))


def _restricted(pod: Document, container: Document) -> Iterator[str]:
    """Yield what the restricted level of Pod Security refuses; a Job's Pods then never come up."""
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        yield "restricted: runAsNonRoot must be true, and the user not 0"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "restricted: seccompProfile must be RuntimeDefault or Localhost"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "restricted: allowPrivilegeEscalation must be false"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "restricted: capabilities must drop ALL"
    if security.get("privileged") or any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "restricted: nothing of the host's"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "restricted: no hostPort"


def _one_of(document: Document, name: str, values: Iterable[Any]) -> Iterator[str]:
    if name in document and document[name] not in values:
        yield f"{name}: {document[name]!r}"


def _unique(what: str, names: list[str]) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{what} {name!r} is there twice"
