"""From a file, or standard input, and `--set` options to a spec, or to everything that is wrong with them."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path as FilePath

from pydantic import ValidationError

from job.spec import secrets
from job.spec.explain import Complaint, explain
from job.spec.job import JobSpec
from job.spec.overrides import Override, merge
from job.spec.positions import JSON, Document, MalformedError, Node, Path, Refused, parse
from job.spec.problems import Problem, SpecProblems
from job.spec.showing import printable, show_line, show_path
from job.storage.local import local_path
from job.storage.uris import is_remote, open_store, parent_and_name
from job.waiting import interruptibly

MAX_BYTES = 1 << 20
MAX_DEPTH = 100
MAX_VALUES = 20_000
MAX_PROBLEMS = 100
_MUST_NOT_HOLD = (
    "holds what looks like a secret, and a spec is kept, shown and published; credentials belong into the"
    " environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the Pod's role)"
)
_TOO_LARGE = f"larger than {MAX_BYTES:,} bytes; a spec names data, it does not hold them"


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A valid spec, and where each of its values that is not a default comes from."""

    spec: JobSpec
    origins: dict[str, str]
    """`finetune.n_steps` -> `specs/quick.json:12:5` or `--set`."""
    source: str
    """The path as given; `<stdin>` for standard input."""


def load(source: str, *, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read the spec at `source`, write `overrides` into it, validate it.

    A source is a path, a `file://` or `s3://` URI, or `-` for standard input.

    Raises SpecProblems with every problem at once; a file that cannot be read or parsed is a single one.
    """
    text, name = (_decode(_read(source), source), printable(source)) if source != "-" else _read_stdin()
    document = _parse(text, name)
    assert isinstance(document.value, dict)
    merged, applied, problems = merge(document.value, overrides, JobSpec)
    origin = _Origin(name, document.root, applied)
    refused = [part for part in document.refused if _stands(part, applied)][: MAX_PROBLEMS + 1]
    problems += [
        Problem(name, part.place.line, part.place.column, show_path(part.path), part.message)
        for part in refused
    ]
    leaked = list(islice(secrets.find(merged), MAX_PROBLEMS + 1))
    problems += [origin.problem(Complaint(path, _MUST_NOT_HOLD)) for path in leaked]
    hidden = {*leaked, *(part.path for part in refused if part.hides_value)}
    spec, complaints = _validate(merged)
    problems += [origin.problem(complaint) for complaint in complaints if complaint.path not in hidden]
    if problems or spec is None:
        raise SpecProblems(_in_reading_order(problems, name))
    given = {show_path(path): origin.of_leaf(path) for path in _leaves(merged, ())}
    return LoadedSpec(spec, {path: place for path, place in given.items() if place}, name)


def _validate(document: dict[str, JSON]) -> tuple[JobSpec | None, list[Complaint]]:
    try:
        return JobSpec.model_validate(document), []
    except ValidationError as error:
        return None, explain(error.errors(include_url=False)[: MAX_PROBLEMS + 1], JobSpec)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Tells for each path whether the document or a `--set` option brought it, and where it stands."""

    source: str
    root: Node
    overrides: Sequence[Override]

    def problem(self, complaint: Complaint) -> Problem:
        """Return the complaint with its place; what stands nowhere is looked for in what would hold it."""
        path, shown = complaint.path, show_path(complaint.path)
        blamed = self.writer(path)
        while blamed is None and (node := self.root.find(path)) is None:
            beneath = (o for o in reversed(self.overrides) if _starts_with(o.path, path))
            blamed = next(beneath, None)
            path = path[:-1]
        if blamed is not None:
            return Problem(blamed.option, None, None, shown, complaint.message)
        assert node is not None
        points_at_key = complaint.points_at == "key" and path == complaint.path
        place = node.key if points_at_key and node.key else node.value
        return Problem(self.source, place.line, place.column, shown, complaint.message)

    def writer(self, path: Path) -> Override | None:
        """Return the last option that wrote the value at `path` or something around it."""
        around = (override for override in reversed(self.overrides) if _starts_with(path, override.path))
        return next(around, None)

    def of_leaf(self, path: Path) -> str:
        """Return where the value at `path` comes from; empty for a default that an option's list brought."""
        if self.writer(path) is not None:
            return "--set"
        node = self.root.find(path)
        return f"{self.source}:{node.value.line}:{node.value.column}" if node else ""


def _in_reading_order(problems: list[Problem], name: str) -> list[Problem]:
    ordered = sorted(problems, key=lambda p: (p.line is None, p.line or 0, p.column or 0))
    if len(ordered) > MAX_PROBLEMS:
        ordered[MAX_PROBLEMS:] = [Problem(name, None, None, "", "and more problems; mend these first")]
    return ordered


def _leaves(value: JSON, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for position, inner in enumerate(value):
            yield from _leaves(inner, (*path, position))
    else:
        yield path


def _stands(part: Refused, overrides: Sequence[Override]) -> bool:
    """Return whether no option has replaced the refused value."""
    return not part.hides_value or not any(_starts_with(part.path, o.path) for o in overrides)


def _starts_with(path: Path, start: Path) -> bool:
    return path[: len(start)] == start


def _parse(text: str, name: str) -> Document:
    if not text.strip():
        raise _single(name, 'the spec is empty; the smallest one is {"name": "x"}')
    try:
        document = parse(text, max_depth=MAX_DEPTH, max_values=MAX_VALUES)
    except MalformedError as error:
        line = show_line(error.line_text, error.place.column, error.path)
        message = error.message + (f"; the line reads: {line}" if line else "")
        place = error.place
        raise SpecProblems(
            [Problem(name, place.line, place.column, show_path(error.path), message)]
        ) from None
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        place = document.root.value
        message = f'expected an object such as {{"name": "x"}}, got {kind}'
        raise SpecProblems([Problem(name, place.line, place.column, "", message)])
    return document


def _read(source: str) -> bytes:
    if is_remote(source):
        return interruptibly(lambda: _read_object(source))
    if "://" in source:
        source = str(local_path(source))
    try:
        return interruptibly(lambda: _read_file(FilePath(source)))  # it may be a pipe that nobody fills
    except FileNotFoundError:
        message = "no such file" + _other_specs(FilePath(source).parent, like=FilePath(source).name)
    except IsADirectoryError:
        message = "this is a directory, not a spec" + _other_specs(FilePath(source))
    except OSError as error:
        message = f"cannot be read: {(error.strerror or 'unknown error').lower()}"
    except ValueError:
        message = "this is no file name"
    raise _single(source, message)


def _read_file(path: FilePath) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_object(uri: str) -> bytes:
    """Read a spec from a store; raises what the store raises, `SpecProblems` for what cannot be a spec."""
    folder, name = parent_and_name(uri)
    store = open_store(folder)
    found = store.stat(name)
    if found is None:
        raise _single(uri, "no such object")
    if found.size > MAX_BYTES:
        raise _single(uri, _TOO_LARGE)
    return store.read(name)[0]


def _other_specs(folder: FilePath, like: str = "") -> str:
    """Return a hint at the specs in a folder, at the one whose name is `like` the given one first."""
    import difflib  # only a mistake pays for it

    try:
        names = (path.name for path in folder.iterdir() if path.suffix == ".json")
        specs = sorted(name for name in names if not name.endswith(".schema.json"))
    except OSError:
        return f"; nor is there a folder {printable(str(folder))}"
    if close := difflib.get_close_matches(like, specs, n=1):
        return f"; did you mean {printable(str(folder / close[0]))}?"
    return f"; there are {printable(', '.join(specs[:10]))}" if specs else ""


def _read_stdin() -> tuple[str, str]:
    content = interruptibly(lambda: sys.stdin.buffer.read(MAX_BYTES + 1))
    return _decode(content, "<stdin>"), "<stdin>"


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise _single(name, _TOO_LARGE)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        message = f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise SpecProblems([Problem(printable(name), line, column, "", message)]) from None


def _single(source: str, message: str) -> SpecProblems:
    return SpecProblems([Problem(printable(source), None, None, "", message)])
