"""One honest file of each kind that the job reads from outside: what the hostile ones are made from."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from job.evaluation.candidate import NETWORK, CandidateFile
from job.finetune.observation import Observer
from job.finetune.policy import Layer, Policy
from job.inputs import EMBEDDED_ROOT
from job.metrics.statistics import paired_uplift, t_interval
from job.publish.champion import ChampionFile, Reign, to_bytes
from job.reward.network_file import EMBEDDED
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT, content_key
from job.spec.segmenter import PromptableUNetSpec
from job.storage.lease import Document
from job.storage.manifest import FileFacts, Manifest
from job.storage.sealed_folder import seal

SHA256 = "0" * 64
RUN = "runs/x/1"
MODEL = "models/x"


def picture(size: tuple[int, int] = (32, 32), mode: str = "RGB", kind: str = "PNG", seed: int = 0) -> bytes:
    """Return a small photograph as a file of some format."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def scans(n: int) -> bytes:
    """Return a progressive JPEG that paints its picture over and over again, `n` scans more than it needs."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    last = buffer.getvalue().rindex(b"\xff\xda")
    head, scan, end = buffer.getvalue()[:last], buffer.getvalue()[last:-2], buffer.getvalue()[-2:]
    return head + scan * (n + 1) + end


def dataset(folder: Path) -> Path:
    """Write a dataset folder of three images with their masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate("abc"):
        (folder / "images" / f"{name}.png").write_bytes(picture(seed=seed))
        (folder / "masks" / f"{name}.png").write_bytes(picture(mode="1", seed=seed))
    (folder / "annotations.json").write_bytes(annotations())
    return folder


def annotations() -> bytes:
    """Return an annotations.json for `dataset`."""
    images = [{"image": f"images/{name}.png", "mask": f"masks/{name}.png", "patient": name} for name in "abc"]
    return json.dumps([{**entry, "fov": None, "split": None} for entry in images], indent=1).encode()


def spec() -> bytes:
    """Return a spec that sets some of everything."""
    return (EMBEDDED_ROOT.parent / "specs" / "tiny.json").read_bytes()


def network(path: Path) -> Path:
    """Write a reward network."""
    shutil.copyfile(EMBEDDED, path)
    return path


def policy(path: Path) -> Path:
    """Write a policy of two actions that sees one statistic."""
    observer = Observer(np.zeros(1, np.float32), np.ones((1, 1), np.float32), ("contrast",))
    head = Layer(np.ones((2, 1), np.float32), np.zeros(2, np.float32))
    Policy(observer, (head,), ("a", "b")).save(path)
    return path


def checkpoint(folder: Path) -> Path:
    """Write a segmenter's checkpoint folder."""
    shutil.copytree(EMBEDDED_CHECKPOINT, folder, dirs_exist_ok=True)
    return folder


def candidate() -> bytes:
    """Return a candidate.json that takes one action for every image."""
    file = CandidateFile(
        name="noop", verdict="improved", segmenter=PromptableUNetSpec(), width=None, prompts=["vessels"],
        segmenter_key=content_key(EMBEDDED_CHECKPOINT), postprocess=[{"threshold": 0.5}],
        chooser="fixed", action=0, interval_halfwidth=0.1, confidence=0.9, review_below=0.5,
        trained_on=[SHA256],
    )  # fmt: skip
    return file.model_dump_json(indent=1).encode()


def candidate_folder(folder: Path) -> Path:
    """Write a run folder with what prediction needs."""
    (folder / NETWORK).parent.mkdir(parents=True, exist_ok=True)
    network(folder / NETWORK)
    (folder / "candidate.json").write_bytes(candidate())
    return folder


def manifest() -> bytes:
    """Return a manifest of one file."""
    return Manifest(
        name="x", run_id="1", identity=SHA256, verdict="improved", exit_code=0,
        finished_at="2026-01-01T00:00:00Z",
        files={"report.md": FileFacts(key="report.md", size=3, sha256=SHA256)},
    ).to_bytes()  # fmt: skip


def marker(manifest_bytes: bytes) -> bytes:
    """Return the marker that vouches for a manifest."""
    return hashlib.sha256(manifest_bytes).hexdigest().encode() + b"\n"


def champion() -> bytes:
    """Return the champion.json of `MODEL`."""
    reign = Reign(run=RUN, manifest_sha256=SHA256, promoted_at="2026-01-01T00:00:00Z")
    values = np.array([0.7, 0.8, 0.75])
    record = ChampionFile(
        name="x", generation=2, current=reign, previous=reign, by="job", reason="better", candidate="noop",
        dice=t_interval(values), vs_noop=paired_uplift(values, values - 0.1, ["a", "b", "c"]),
        vs_champion=None, data_fingerprint=SHA256,
    )  # fmt: skip
    return to_bytes(record)


def lease() -> bytes:
    """Return the lease of somebody at work."""
    document = Document(
        holder="host 1", attempt=1, ttl_s=60.0, released=False, facts={"stage": "table", "eta_s": 3.5}
    )
    return document.model_dump_json(indent=1).encode()


def sums() -> bytes:
    """Return a SHA256SUMS of two files."""
    return f"{SHA256}  images/a.png\n{SHA256} *masks/a.png\n".encode()


def manifest_of_data() -> bytes:
    """Return the manifest.json of a dataset folder."""
    return json.dumps({"files": {"images/a.png": {"sha256": SHA256}, "masks/a.png": SHA256}}).encode()


def sealed(folder: Path) -> Path:
    """Write a finished stage's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checks.json").write_text("[]")
    seal(folder, {"stage": "audit"})
    return folder


def archive(path: Path, **files: bytes) -> Path:
    """Write a tar archive of files by name."""
    with tarfile.open(path, "w") as tar:
        for name, data in (files or {"images/a.png": b"abc"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
