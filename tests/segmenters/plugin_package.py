"""A package that offers a segmenter by an entry point, installed into a folder as pip would leave it."""

import textwrap
from pathlib import Path

MODULE = '''
"""A segmenter without a network: what is darker than a level is a vessel."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from job.segmenters import Segmentation


def content_key(folder: Path, options: dict) -> str:
    level = float(options.get("level", 0.5))
    if set(options) - {"level"} or not 0 < level < 1:
        raise ValueError("level is a number between 0 and 1, and there is no other option")
    return hashlib.sha256((folder / "bias.txt").read_bytes()).hexdigest()


def load(folder: Path, options: dict, device: str) -> "Darkness":
    return Darkness(content_key(folder, options), float((folder / "bias.txt").read_text()) + options["level"])


@dataclass(frozen=True)
class Darkness:
    key: str
    level: float

    def segment(self, images, prompts):
        return [self.one(image, prompts) for image in images]

    def one(self, image, prompts):
        green = image[..., 1].astype(np.float32) / 255
        logits = [(self.level - green) * 8 + 0.01 * len(prompt) for prompt in prompts]
        embedding = np.array([green.mean(), green.std(), *image.mean((0, 1)) / 255], np.float32)
        return Segmentation(np.stack(logits).astype(np.float16), embedding)
'''


def install(site: Path, *, name: str = "darkness", module: str = MODULE, version: str = "1.2") -> Path:
    """Write the package and its metadata into a folder that is to be on the path; returns the folder."""
    package = f"seg_{name}"
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{package}.py").write_text(textwrap.dedent(module))
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[segmenter_rl_job.segmenters]\n{name} = {package}\n")
    return site


def checkpoint(folder: Path, bias: float = 0.0) -> Path:
    """Write what the plug-in calls a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bias.txt").write_text(str(bias))
    return folder
