"""Which file holds the probabilities of an image and a prompt: `<image>/<prompt>.npz` or `.png`."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from job.data.names import safe_name
from job.errors import InputError, IntegrityError
from job.storage import strict_json
from job.storage.documents import read_bytes

ENDINGS = (".npz", ".png")
PROMPTS = "prompts.json"
_SHOWN = 10
_LONGEST = 80
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """A folder of probabilities."""

    root: Path
    folders: Mapping[str, Path]
    """By an image's name as the job has it, which replaces odd characters by underscores."""
    stems: Mapping[str, str]
    """File names of prompts, as prompts.json gives them."""

    @classmethod
    def of(cls, root: Path) -> "Layout":
        """Look at a folder.

        Raises `IntegrityError` for a prompts.json of no use, `InputError` for two folders of one image.
        """
        folders: dict[str, Path] = {}
        for path in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != "."):
            taken = folders.setdefault(safe_name(path.name), path)
            if taken != path:
                raise InputError(
                    f"{root}: the folders {taken.name!r} and {path.name!r} would be of one image",
                    advice="rename one of them as its image is called in splits.json",
                )
        return cls(root, folders, _stems(root / PROMPTS))

    def files(self, images: Iterable[str], prompts: Sequence[str]) -> dict[tuple[str, str], Path]:
        """Return the file of each image and prompt; raises `InputError`, naming up to ten missing ones."""
        stems = {prompt: self._stem(prompt) for prompt in prompts}
        _require_different(stems)
        found: dict[tuple[str, str], Path] = {}
        missing = []
        for image in images:
            folder = self.folders.get(image, self.root / image)
            for prompt, stem in stems.items():
                there = [path for ending in ENDINGS if (path := folder / f"{stem}{ending}").is_file()]
                if len(there) > 1:
                    raise InputError(
                        f"{there[0]} and {there[1].name} are both there",
                        advice="remove the one that is stale",
                    )
                if there:
                    found[image, prompt] = there[0]
                else:
                    missing.append(f"{folder / stem}.npz (or .png)")
        if missing:
            more = f"\n  and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"{len(missing)} files of probabilities are missing:\n  "
                + "\n  ".join(missing[:_SHOWN])
                + more,
                advice="compute them, or name the files of the prompts in prompts.json (docs/segmenters.md)",
            )
        return found

    def _stem(self, prompt: str) -> str:
        stem = self.stems.get(prompt) or slug(prompt)
        if not stem:
            raise InputError(
                f"the prompt {prompt!r} has no letters or digits to name a file by",
                advice=f'give it a file name in {self.root / PROMPTS}: {{"{prompt}": "name"}}',
            )
        return stem


def slug(prompt: str) -> str:
    """Return the file name of a prompt: lower-case letters and digits, dashes for all between them."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST].strip("-")


def _stems(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        document = strict_json.parse(read_bytes(path))
    except ValueError as error:
        raise _refused(path, str(error)) from error
    if not isinstance(document, dict):
        raise _refused(path, "it is no object")
    for prompt, stem in document.items():
        if not isinstance(stem, str) or not _PLAIN.fullmatch(stem) or stem.endswith(ENDINGS):
            raise _refused(path, f"the file name of {prompt[:60]!r} is no plain name without ending")
    return document


def _require_different(stems: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for prompt, stem in stems.items():
        other = first.setdefault(stem.lower(), prompt)
        if other != prompt:
            raise InputError(
                f"the prompts {other!r} and {prompt!r} would both be in {stem}.npz",
                advice=f"give them file names of their own in {PROMPTS}",
            )


def _refused(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path}: {why}", advice='write it as {"the prompt": "file-name-without-ending"}')
