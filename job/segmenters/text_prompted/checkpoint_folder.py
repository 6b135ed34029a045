"""What of a checkpoint folder counts, and how it wants pictures prepared. No torch here.

Nothing but JSON, text and safetensors is opened. Published folders hold the same weights as pickles too, and
these are left alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.errors import IntegrityError
from job.segmenters.checkpoint_files import MOST_BYTES_OF_JSON, read_json, refused, shards_of
from job.storage.documents import read_bytes

CONFIG = "config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_CONTENT = (".json", ".safetensors", ".txt")
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_LARGEST_SIDE = 4096
_RESAMPLING = {int(method): method for method in Image.Resampling}


@dataclass(frozen=True)
class Preparation:
    """How pixels become a network's input: resized to one size, scaled, standardised."""

    height: int
    width: int
    resampling: Image.Resampling
    factor: float
    mean_3: tuple[float, ...]
    deviation_3: tuple[float, ...]

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 `[3, height, width]` of an RGB image `[H, W, 3]`."""
        resized = Image.fromarray(image).resize((self.width, self.height), self.resampling)
        scaled = np.asarray(resized, dtype=np.float32) * np.float32(self.factor)
        mean, deviation = (np.asarray(row, np.float32) for row in (self.mean_3, self.deviation_3))
        return np.ascontiguousarray(((scaled - mean) / deviation).transpose(2, 0, 1))


def content_files(folder: Path) -> list[Path]:
    """Return the files that shape what a checkpoint computes.

    Raises FileNotFoundError or `InputError` naming what the folder lacks, `IntegrityError` where it asks for
    code to be run, or for an adapter that would be laid over the weights.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in _CONTENT and path.is_file())
    names = {path.name for path in files}
    lacking = [CONFIG] if CONFIG not in names else []
    lacking += [PREPROCESSOR] if not names & {PREPROCESSOR, PROCESSOR} else []
    lacking += ["tokenizer.json"] if not names & set(_TOKENIZERS) else []
    lacking += ["*.safetensors"] if not any(name.endswith(".safetensors") for name in names) else []
    if lacking:
        raise FileNotFoundError(f"{folder} lacks {', '.join(lacking)}")
    shards_of(folder)
    if "adapter_config.json" in names:
        raise IntegrityError(
            f"{folder} holds an adapter: other weights would be laid over the checkpoint's",
            advice="merge the adapter into the checkpoint where it was trained, and name that folder",
        )
    for path in files:
        if path.suffix == ".json" and b'"auto_map"' in read_bytes(path, most_bytes=MOST_BYTES_OF_JSON):
            raise IntegrityError(
                f"{path} has an `auto_map`, which asks for code of the checkpoint to be run: refused",
                advice="this kind of segmenter runs no code of a checkpoint: remove the entry",
            )
    return files


def preparation(folder: Path) -> Preparation:
    """Return how a checkpoint wants pictures prepared; raises `IntegrityError` for what cannot be done."""
    path = folder / PREPROCESSOR
    fields: dict[str, Any] = {
        "size": (dict, int), "image_mean": list, "image_std": list, "resample": int,
        "rescale_factor": (int, float),
    }  # fmt: skip
    if path.is_file():
        found = read_json(path, fields)
    else:
        path = folder / PROCESSOR
        inner = read_json(path, {"image_processor": dict}).get("image_processor", {})
        found = {name: inner[name] for name in fields if name in inner}
    size = found.get("size")
    size = {"height": size, "width": size} if isinstance(size, int) else size
    if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        raise refused(path, f"its size is {size}, and height and width are needed")
    height, width = size["height"], size["width"]
    if not all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in (height, width)):
        raise refused(path, f"its size is {size}, and sides are at most {_LARGEST_SIDE}")
    mean, deviation = found.get("image_mean", []), found.get("image_std", [])
    if not all(len(row) == 3 and all(type(x) in (int, float) for x in row) for row in (mean, deviation)):
        raise refused(path, "image_mean and image_std are no three numbers each")
    if min(deviation) <= 0 or found.get("resample", 2) not in _RESAMPLING:
        raise refused(path, "image_std or resample is out of range")
    return Preparation(
        height=height,
        width=width,
        resampling=_RESAMPLING[found.get("resample", 2)],
        factor=float(found.get("rescale_factor", 1 / 255)),
        mean_3=tuple(mean),
        deviation_3=tuple(deviation),
    )
