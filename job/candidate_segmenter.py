"""The segmenter of a candidate: where its run says, where the user says, or trained and beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from job import segmenters, trust
from job.data.image_names import ImageNames
from job.errors import InputError, IntegrityError
from job.evaluation.candidate import Candidate
from job.exchange import Inbox
from job.inputs import find_segmenter
from job.logs import Output
from job.publish.local_run import require_as_sealed
from job.segmenters.protocol import Segmenter
from job.spec.segmenter import AnySegmenterSpec


@dataclass(frozen=True)
class Opening:
    """How a candidate's segmenter is opened, where that differs from what its candidate.json says."""

    uri: str | None = None
    """Where it lies now."""
    trust_code: str | None = None
    """Digest of the code that the caller vouches for: what the candidate says of it counts for nothing."""


AS_BEFORE = Opening()


def open_segmenter(
    candidate: Candidate,
    place: str,
    opening: Opening,
    device: str,
    inbox: Inbox,
    reporting: Output,
    names: Mapping[str, str],
) -> Segmenter:
    """Open a candidate's segmenter; `names`, by pixel digest, may grow with the images it is asked for."""
    spec = trust.vouched_by(candidate.file.segmenter, opening.trust_code)
    if opening.uri is not None:
        spec = spec.model_copy(update={"uri": opening.uri})
    elif candidate.file.segmenter_folder is not None:
        return _trained(candidate, spec, device, reporting)
    found = find_segmenter(spec.uri, "--segmenter")
    trust.require_vouched(spec, found, "--trust-code")
    folder = inbox.bring(found)
    # Weights of gigabytes are read for their digests once: to compare the key, and for the segmenter's own.
    with TemporaryDirectory(prefix="digests-") as memory:
        try:
            segmenters.require_same(spec, folder, candidate.file.segmenter_key, Path(memory))
        except InputError as error:
            raise InputError(f"{place}: {error}", advice=error.advice) from error
        return segmenters.load(
            spec, folder, device, reporting.log, memory=Path(memory), names=ImageNames(lambda: names)
        )


def _trained(candidate: Candidate, spec: AnySegmenterSpec, device: str, reporting: Output) -> Segmenter:
    """Open the segmenter that came with the run; raises `IntegrityError` for another one."""
    assert candidate.file.segmenter_folder is not None
    folder = candidate.folder / candidate.file.segmenter_folder
    advice = "fetch the whole run folder again, undamaged; `status --verify` names what is damaged"
    try:
        key = segmenters.content_key(spec, folder)
    except InputError as error:
        raise InputError(str(error).removeprefix("segmenter.uri: "), advice=advice) from error
    if key != candidate.file.segmenter_key:
        require_as_sealed(candidate.folder.resolve(), [candidate.file.segmenter_folder])
        raise IntegrityError(
            f"{folder}: not the weights that the run trained: a file there was changed, or this is another"
            " version of the program",
            advice=advice,
        )
    return segmenters.load(spec, folder, device, reporting.log)


def open_today(
    candidate: Candidate, key: str, place: str, device: str, inbox: Inbox, reporting: Output
) -> Segmenter:
    """Open the segmenter as it was before its weights were trained: what the no-op stands for."""
    spec = candidate.file.segmenter
    folder = inbox.bring(find_segmenter(spec.uri))
    try:
        segmenters.require_same(spec, folder, key)
    except InputError as error:
        raise InputError(f"{place}: what it is compared with: {error}", advice=error.advice) from error
    return segmenters.load(spec, folder, device, reporting.log)
