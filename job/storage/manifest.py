"""`manifest.json` of a run: every file that belongs to it, where it lies, and what it must contain."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from job.storage.documents import parse_as
from job.storage.names import inner_name

MANIFEST = "manifest.json"
MARKER = "_SUCCESS"
"""Holds the sha256 of the manifest's bytes; written last. Readers trust nothing without it."""
LEASE = "lease.json"
Inner = Annotated[str, AfterValidator(inner_name)]


class FileFacts(BaseModel):
    """One file of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Inner
    """Where it lies, relative to the run's root: `attempt-2/report.html` in a store, else its own path."""
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The whole document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    run_id: str
    attempt: int = 1
    """The lease's fencing token: which attempt published."""
    identity: str
    verdict: str
    exit_code: int = Field(ge=0, le=255)
    finished_at: str
    results_digest: str = ""
    files: Mapping[Inner, FileFacts]
    """By path within the run folder."""

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """Read the document; raises `IntegrityError` that names `where` it lies and the first mistake."""
        return parse_as(
            cls, data, where, advice="delete it and run the same command: finished stages are taken over"
        )

    def to_bytes(self) -> bytes:
        """Return the document as it is stored: the marker holds the sha256 of these bytes."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(facts.size for facts in self.files.values())
