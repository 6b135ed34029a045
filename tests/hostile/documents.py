"""Hostile documents: specs, manifests, champions, records, candidates, leases and finished stages."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile import valid
from tests.hostile.making import Make, Touch, deep, file, of, pickled, sparse, written


def _output(name: str, change: Callable[[dict[str, Any]], object], *, of: bytes) -> Make:
    """Return an output root with two runs, a champion, and a file in it that is not as it should be."""
    document = json.loads(of)
    change(document)
    return _output_with(name, json.dumps(document).encode())


def _output_with(name: str, data: bytes) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        written(folder / valid.RUN / "manifest.json", valid.manifest())
        written(folder / valid.MODEL / "champion.json", valid.champion())
        written(folder / name, data)
        manifest = (folder / valid.RUN / "manifest.json").read_bytes()
        written(folder / valid.RUN / "_SUCCESS", valid.marker(manifest))
        shutil.copytree(folder / valid.RUN, folder / "runs" / "x" / "2")
        return folder

    return make


def _candidate(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        path = valid.candidate_folder(folder / "run") / "candidate.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))
        written(folder / "a.png", valid.picture())
        return folder

    return make


def _lease(**fields: object) -> Make:
    return file("lease.json", json.dumps(json.loads(valid.lease()) | fields).encode())


def _stage(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        path = valid.sealed(folder / "stage") / "done.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))
        return folder / "stage"

    return make


def _many_keys(n: int) -> bytes:
    return b'{"name":"x"' + b"".join(b',"k%d":0' % i for i in range(n)) + b"}"


_MODEL = f"{valid.MODEL}/champion.json"
_RECORD = f"{valid.RUN}/training_info.json"
_MANIFEST = f"{valid.RUN}/manifest.json"


def _grown(folder: Path, name: str) -> Path:
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)
    return folder


def _with_pickle(folder: Path, marker: Path) -> Path:
    _candidate(lambda document: None)(folder, marker)
    written(folder / "run" / "reward" / "best_reward_net.safetensors", pickle.dumps(Touch(marker)))
    return folder


DOCUMENTS = (
    *of(
        "spec",
        2,
        {
            "spec that is a pickle": pickled("spec.json"),
            "spec nested deeply": file("spec.json", b'{"name":' + deep() + b"}"),
            "spec of 80,000 unknown keys": file("spec.json", _many_keys(80_000)),
            "spec of 10^6 keys": file("spec.json", _many_keys(1_000_000)),
            "spec of a terabyte": sparse("spec.json", b'{"name": "', 1 << 40),
            "spec that is a device": lambda folder, marker: Path("/dev/zero"),
            "spec in another encoding": file("spec.json", '{"name": "ä"}'.encode("utf-16")),
            "spec with NaN": file("spec.json", b'{"name": "x", "seed": NaN}'),
            "spec with a key twice": file("spec.json", b'{"name": "x", "name": "y"}'),
            "spec with a number of 10^5 digits": file("spec.json", b'{"seed":' + b"9" * 100_000 + b"}"),
            "spec named out of its folder": file("spec.json", b'{"name": "../../x"}'),
            "spec with a NUL in a place": file("spec.json", b'{"name":"x","data":{"uri":"a\\u0000b"}}'),
            "spec with a newline in a place": file("spec.json", b'{"name":"x","data":{"uri":"a\\nb"}}'),
            "spec with code": file("spec.json", b'{"name":"x","segmenter":{"trust_remote_code":true}}'),
            "spec with an import path": file("spec.json", b'{"name":"x","segmenter":{"kind":"os.system"}}'),
        },
    ),
    *of(
        "manifest",
        4,
        {
            "manifest nested deeply": (_output_with(_MANIFEST, deep()), "manifest.json"),
            "manifest that names files elsewhere": (
                _output(
                    _MANIFEST,
                    lambda d: d["files"]["report.md"].update(key="../../../etc/passwd"),
                    of=valid.manifest(),
                ),
                "etc/passwd",
            ),
            "manifest with a file named for elsewhere": (
                _output(
                    _MANIFEST,
                    lambda d: d["files"].update({"/etc/passwd": d["files"]["report.md"]}),
                    of=valid.manifest(),
                ),
                "etc/passwd",
            ),
            "manifest with an exit code of 256": (
                _output(_MANIFEST, lambda d: d.update(exit_code=256), of=valid.manifest()),
                "exit_code",
            ),
            "manifest with an attempt of 4,000 digits": (
                _output_with(
                    _MANIFEST, valid.manifest().replace(b'"attempt": 1', b'"attempt": ' + b"9" * 4000)
                ),
                "manifest.json",
            ),
            "manifest of a terabyte": (
                lambda folder, marker: _grown(
                    _output_with(_MANIFEST, valid.manifest())(folder, marker), _MANIFEST
                ),
                "manifest.json",
            ),
        },
    ),
    *of(
        "champion",
        4,
        {
            "champion nested deeply": (_output_with(_MODEL, deep()), "champion.json"),
            "champion that is a pickle": (_output_with(_MODEL, pickle.dumps({"a": 1})), "champion.json"),
            "champion whose run is elsewhere": (
                _output(_MODEL, lambda d: d["current"].update(run="runs/../../x"), of=valid.champion()),
                "champion.json",
            ),
            "champion of another name": (
                _output(_MODEL, lambda d: d.update(name="y"), of=valid.champion()),
                "champion.json",
            ),
            "champion with 10^5 ancestors": (
                _output(_MODEL, lambda d: d.update(earlier=[d["current"]] * 10**5), of=valid.champion()),
                "champion.json",
            ),
        },
    ),
    *of(
        "record",
        4,
        {
            "record nested deeply": (_output_with(_RECORD, deep()), "training_info.json"),
            "record that is a number": (_output_with(_RECORD, b"1"), "training_info.json"),
        },
    ),
    *of(
        "candidate",
        4,
        {
            "candidate whose prompts are many": (
                _candidate(lambda d: d.update(prompts=["x"] * 10**5)),
                "candidate.json",
            ),
            "candidate whose post-processing is huge": (
                _candidate(lambda d: d.update(postprocess=[{"closing_radius": 10**6}])),
                "candidate.json",
            ),
            "candidate with a field of its own": (
                _candidate(lambda d: d.update(code="import os")),
                "candidate.json",
            ),
            "candidate of an action that there is not": (
                _candidate(lambda d: d.update(action=10**30)),
                "candidate.json",
            ),
            "candidate of a giant width": (_candidate(lambda d: d.update(width=10**9)), "candidate.json"),
            "candidate with infinities in words": (
                _candidate(lambda d: d.update(review_below="Infinity")),
                "candidate.json",
            ),
            "candidate whose network is a pickle": (
                lambda folder, marker: _with_pickle(folder, marker),
                "best_reward_net",
            ),
        },
    ),
    *of(
        "lease",
        4,
        {
            "lease for ever": _lease(ttl_s=1e300),
            "lease of an attempt below zero": _lease(attempt=-1),
            "lease that is a list": file("lease.json", b"[]"),
            "lease nested deeply": file("lease.json", b'{"facts":' + deep() + b"}"),
        },
    ),
    *of(
        "stage",
        4,
        {
            "stage whose files are no mapping": (_stage(lambda d: d.update(files=[1, 2])), "done.json"),
            "stage with a file elsewhere": (_stage(lambda d: d["files"].update({"../x": "0" * 64})), "../x"),
        },
    ),
)
