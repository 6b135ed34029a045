"""Everything is examined, whatever else is broken; nothing is changed but for probes that are removed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from job.doctor import credentials, machine, software, stores
from job.doctor.findings import Finding, without
from job.doctor.segmenter import segmenter
from job.errors import JobError
from job.places import Places, default_cache
from job.spec.loading import load
from job.spec.problems import SpecProblems
from job.spec.runtime import OutputSpec, RuntimeSpec
from job.storage.local import local_path
from job.storage.uris import is_remote

Examination = Callable[[], Iterable[Finding]]

STORES_AT_ONCE = 8


def examine(subject: str | None = None) -> list[Finding]:
    """Examine this machine and the places that `subject` names: a spec (`*.json` or `-`), or an output URI.

    Never raises for what it finds; secrets are hidden in every finding. A store that does not answer takes as
    long as the client's retries, all stores together no longer than one.
    """
    spec_findings, places, runtime = _places(subject)
    asked = next((place.spec for place in places if place.spec is not None), None)
    remote = [place for place in places if is_remote(place.uri)]
    parts: list[tuple[str, Examination]] = [
        ("gpu", partial(machine.gpu, runtime.device)),
        ("cpu", partial(machine.cpu, runtime.threads)),
        ("memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("disk", partial(_disks, places)),
        ("software", software.software),
        ("environment", credentials.environment),
    ]
    if asked is not None:
        parts.append(("segmenter", partial(segmenter, asked.segmenter)))
    if remote:
        parts.append(("credentials", credentials.credentials))
    probes = [(place.field, partial(stores.store, place)) for place in places]
    with ThreadPoolExecutor(STORES_AT_ONCE) as pool:
        answers = pool.map(lambda probe: _examined(*probe), probes)
        findings = [*spec_findings, *(one for part in parts for one in _examined(*part))]
        findings += [one for answer in answers for one in answer]
    return without(findings, credentials.secrets(ask_chain=bool(remote)))


def _places(subject: str | None) -> tuple[list[Finding], list[stores.Place], RuntimeSpec]:
    if subject is None:
        return [], [stores.Place("output.uri", OutputSpec().uri, is_output=True)], RuntimeSpec()
    if not is_spec(subject):
        return [], [stores.Place("output", subject, is_output=True)], RuntimeSpec()
    try:
        loaded = load(subject)
    except SpecProblems as error:
        problems = [Finding("error", "spec", str(problem)) for problem in error.problems]
        return problems, [], RuntimeSpec()
    except JobError as error:
        return [Finding("error", "spec", str(error), error.advice)], [], RuntimeSpec()
    spec = loaded.spec
    return [Finding("ok", "spec", f"{loaded.source} is valid")], stores.places_of(spec), spec.runtime


def is_spec(subject: str) -> bool:
    """Return whether what `doctor` is given names a spec rather than a place."""
    return subject == "-" or subject.endswith(".json") or (not is_remote(subject) and Path(subject).is_file())


def _disks(places: Iterable[stores.Place]) -> Iterator[Finding]:
    yield from machine.temporary_folder()
    for place in places:
        if place.is_output:
            yield from _output_disks(place)


def _output_disks(place: stores.Place) -> Iterator[Finding]:
    if place.spec is not None:
        found = Places.of(place.spec)
        yield from machine.disk("output", found.root)
        yield from machine.disk("cache", found.cache, needs_links=found.is_remote)
    elif is_remote(place.uri):
        yield from machine.disk("cache", default_cache(), needs_links=True)
    else:
        yield from machine.disk("output", local_path(place.uri).resolve())


def _examined(part: str, examination: Examination) -> list[Finding]:
    """Return what an examination finds, and that it broke where it did: the others go on."""
    findings: list[Finding] = []
    try:
        findings.extend(examination())
    except JobError as error:
        findings.append(Finding("error", part, str(error), error.advice))
    except Exception as error:
        # Only its kind: the words of an error that nobody expected may hold anything.
        what = f"could not be examined ({type(error).__name__})"
        findings.append(Finding("error", part, what, "this is a defect of the doctor: please report it"))
    return findings
