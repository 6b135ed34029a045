"""Whether the segmenter of a spec could be loaded here: its code, and the packages that this needs."""

from collections.abc import Iterator

from job import trust
from job.doctor.findings import Finding
from job.errors import JobError
from job.inputs import find_segmenter
from job.segmenters.checkpoint_kind import CONFIG, goes_by_config, require_kind
from job.segmenters.plugin import entry_point
from job.segmenters.registry import sa2va_options
from job.spec.segmenter import AnySegmenterSpec, PluginSpec, Sa2vaSpec
from job.storage import strict_json
from job.storage.fetch import Listing
from job.storage.uris import open_store


def segmenter(spec: AnySegmenterSpec) -> Iterator[Finding]:
    """Look at what a segmenter needs besides weights; raises an error of `job.errors` for what is amiss."""
    if isinstance(spec, PluginSpec):
        package = entry_point(spec.name).dist
        of = f" of {package.name} {package.version}" if package is not None else ""
        yield Finding("ok", "segmenter", f"the plug-in {spec.name}{of} is installed")
    elif isinstance(spec, Sa2vaSpec):
        yield from _sa2va(spec)
    elif goes_by_config(spec) and not spec.uri.startswith("embedded:"):
        try:
            config = open_store(spec.uri).read(CONFIG)[0]
        except JobError:
            return  # told of segmenter.uri, as of every place; what a folder lacks is told when it is loaded
        require_kind(spec, config, spec.uri)


def _sa2va(spec: Sa2vaSpec) -> Iterator[Finding]:
    from job.segmenters.sa2va.requirements import check_requirements

    found = find_segmenter(spec.uri)
    trust.require_vouched(spec, found)
    code = trust.code_in(found) if isinstance(found, Listing) else trust.code_at(spec.uri)
    yield Finding("ok", "segmenter", f"{len(code.files)} code files of the checkpoint are vouched for")
    text = open_store(spec.uri).read("config.json")[0]
    check_requirements(code, strict_json.parse(text), sa2va_options(spec))
    yield Finding("ok", "segmenter", "the packages that the checkpoint's code needs are installed")
