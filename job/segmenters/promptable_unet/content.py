"""What a checkpoint folder must hold, and the key of what it computes; nothing heavy is imported for it."""

import hashlib
import os
from pathlib import Path

from job.segmenters.checkpoint_files import require_no_code
from job.storage.documents import open_plain

REVISION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_FILES = (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG)
_CODE_FILES = ("adapter.py", "checkpoint_folder.py", "modelling.py", "processing.py")
_BLOCK_BYTES = 1 << 20


def content_key(folder: Path) -> str:
    """Return the sha256 that names what a checkpoint computes: its files, this code, revision and dtype.

    Raises FileNotFoundError when the folder is no checkpoint of this kind, `IntegrityError` when it holds
    code, which nothing of the folder's content is worth.
    """
    require_usable(folder)
    digest = hashlib.sha256(f"promptable_unet revision {REVISION} float32\n".encode())
    code = [Path(__file__).with_name(name) for name in _CODE_FILES]
    for path in [*(folder / name for name in _FILES), *code]:
        with open_plain(path) as file:
            digest.update(f"{path.name} {os.fstat(file.fileno()).st_size}\n".encode())
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def require_usable(folder: Path) -> None:
    """Raise FileNotFoundError naming what the folder lacks, `IntegrityError` when it holds code."""
    require_no_code(folder)  # first: weights in a pickle are no missing file
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}")
