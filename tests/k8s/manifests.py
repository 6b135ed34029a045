"""The manifests as what they mean: documents, and the Pods that they make."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "k8s"
COMMON = "common.yaml"
IMAGE = "segmenter-rl-job:latest"
"""What kustomize replaces by the image of a site."""
JOBS = ("quick-job.yaml", "full-job.yaml", "nightly-cronjob.yaml", "models/fill-models-job.yaml")
Document = dict[str, Any]

_VARIABLE = re.compile(r"\$(\$)?\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, as an API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"duplicate field {sorted(twice)}{node.start_mark}")
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[Document]:
    """Return the documents of a YAML text."""
    return [document for document in yaml.load_all(text, _Loader) if document is not None]


def load(*names: str) -> list[Document]:
    """Return the documents of files in k8s/."""
    return [document for name in names for document in parse((FOLDER / name).read_text(encoding="utf-8"))]


def found(documents: list[Document], kind: str, name: str | None = None) -> list[Document]:
    """Return the documents of a kind, or the one of a name."""
    return [
        document
        for document in documents
        if document.get("kind") == kind and name in (None, document.get("metadata", {}).get("name"))
    ]


@dataclass(frozen=True)
class Work:
    """A Job, or what a CronJob makes."""

    document: Document
    job: Document
    """The Job's spec."""

    @property
    def name(self) -> str:
        """Of the document."""
        return str(self.document["metadata"]["name"])

    @property
    def template(self) -> Document:
        """The Pod's template."""
        return dict(self.job["template"])

    @property
    def pod(self) -> Document:
        """The Pod's spec."""
        return dict(self.job["template"]["spec"])

    @property
    def container(self) -> Document:
        """The one container."""
        (container,) = self.pod["containers"]
        return dict(container)

    def volume(self, path: str) -> tuple[Document, Document] | None:
        """Return the mount under which a path lies, and its volume; None for a path of the image."""
        around = [
            mount
            for mount in self.container.get("volumeMounts", ())
            if Path(path).is_relative_to(mount["mountPath"])
        ]
        if not around:
            return None
        mount = max(around, key=lambda one: len(one["mountPath"]))
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", ())}
        return mount, volumes.get(mount["name"], {})

    def environment(self, others: list[Document]) -> dict[str, str]:
        """Return the container's variables as the kubelet sets them; `others` holds the ConfigMaps."""
        values: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            named = source.get("configMapRef")
            for config in found(others, "ConfigMap", named["name"]) if named else ():
                values |= config.get("data", {})
        for variable in self.container.get("env", ()):
            field = variable.get("valueFrom", {}).get("fieldRef")
            value = f"<{field['fieldPath']}>" if field else str(variable.get("value", ""))
            values[variable["name"]] = expanded(value, values)
        return values

    def arguments(self, others: list[Document]) -> list[str]:
        """Return the container's arguments with $(NAME) replaced, as the kubelet does."""
        values = self.environment(others)
        return [expanded(argument, values) for argument in self.container.get("args", ())]


def works(documents: list[Document]) -> Iterator[Work]:
    """Find the Jobs and CronJobs."""
    for document in documents:
        if document.get("kind") == "Job":
            yield Work(document, document["spec"])
        elif document.get("kind") == "CronJob":
            yield Work(document, document["spec"]["jobTemplate"]["spec"])


def expanded(text: str, values: Mapping[str, str]) -> str:
    """Replace $(NAME); a name that nobody set stays as it is, and $$(NAME) stands for the text $(NAME)."""

    def one(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        return f"$({name})" if escaped else values.get(name, match[0])

    return _VARIABLE.sub(one, text)


_SUFFIXES = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i|)")


def quantity(text: object) -> float:
    """Return a quantity (`500m`, `16Gi`) as a number; raises `ValueError` for what is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number, suffix = match.groups()
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return float(number + suffix)
    return float(number) * {"n": 1e-9, "u": 1e-6, **_SUFFIXES}[suffix]
