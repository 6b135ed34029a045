"""`trust`: the code of a checkpoint, listed and digested, here and in a store."""

import json
from pathlib import Path

import pytest

from job import trust
from job.errors import InputError, IntegrityError, SpecError
from job.segmenters.remote_code import trust_digest
from job.spec.segmenter import PluginSpec, PromptableUNetSpec, Sa2vaSpec
from job.storage.fetch import listing
from job.storage.uris import open_store

CONFIG = json.dumps({"auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "configuration.Config"}})
FILES = {
    "config.json": CONFIG.encode(),
    "modeling.py": b"raise SystemExit\n",
    "configuration.py": b"x = 1\n",
    "parts/inner.py": b"y = 2\n",
    "model-00001-of-00002.safetensors": b"w" * 100_000,
    "README.md": b"weights",
}


def folder_of(root: Path) -> Path:
    for name, data in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def sa2va(uri: str, digest: str | None) -> Sa2vaSpec:
    return Sa2vaSpec(kind="sa2va", uri=uri, trust_code=digest)


def test_a_folder_and_a_store_give_one_digest_of_the_code_alone(tmp_path: Path, s3_prefix: str) -> None:
    """Weights neither count nor are read; what is printed can be put into a spec."""
    folder = folder_of(tmp_path / "model")
    store = open_store(f"{s3_prefix}/model")
    for name, data in FILES.items():
        store.write(name, data)
    read = []

    class Watched:
        def read(self, key: str) -> tuple[bytes, str]:
            read.append(key)
            return store.read(key)

    found = listing(f"{s3_prefix}/model")
    object.__setattr__(found, "store", Watched())
    digest = trust.code_in(found).digest
    assert sorted(read) == ["config.json", "configuration.py", "modeling.py", "parts/inner.py"]
    assert digest == trust.code_at(str(folder)).digest == trust_digest(folder)
    assert trust.code_at(f"{s3_prefix}/model").digest == digest
    last = trust.to_text("s3://b/m", trust.code_at(str(folder))).splitlines()[-1]
    section = json.loads("{" + last + "}")["segmenter"]
    assert Sa2vaSpec.model_validate(section).trust_code == digest


def test_the_files_are_told_with_size_and_digest(tmp_path: Path) -> None:
    """For people and for programs, with the class that each configuration asks for."""
    code = trust.code_at(str(folder_of(tmp_path)))
    told = trust.to_json("here", code)
    assert [one["file"] for one in told["files"]] == ["configuration.py", "modeling.py", "parts/inner.py"]
    assert told["files"][1]["bytes"] == len(FILES["modeling.py"])
    assert told["classes"] == {
        "config.json": {"AutoModel": "modeling.Model", "AutoConfig": "configuration.Config"}
    }
    assert "config.json: AutoModel is modeling.Model" in trust.to_text("here", code)


def test_a_folder_without_code_needs_no_trust(tmp_path: Path) -> None:
    """And a place that is no folder is an error."""
    (tmp_path / "config.json").write_text("{}")
    assert "no code" in trust.to_text("x", trust.code_at(str(tmp_path)))
    with pytest.raises(InputError, match="is not a folder"):
        trust.code_at(str(tmp_path / "nowhere"))


def test_a_folder_above_checkpoints_is_none(tmp_path: Path, s3_prefix: str) -> None:
    """Its digest would be of the code of all of them."""
    folder_of(tmp_path / "model")
    store = open_store(s3_prefix)
    for name, data in FILES.items():
        store.write(f"model/{name}", data)
    for uri in (str(tmp_path), s3_prefix):
        with pytest.raises(InputError, match=r"holds code, and no config\.json"):
            trust.code_at(uri)


@pytest.mark.parametrize("digest", [None, "sha256:" + "0" * 64])
def test_code_that_nobody_vouches_for_stops_a_job_before_its_weights_are_fetched(
    tmp_path: Path, digest: str | None
) -> None:
    """The error names the command that lists the files, and the digest."""
    folder = folder_of(tmp_path)
    with pytest.raises(IntegrityError) as caught:
        trust.require_vouched(sa2va(str(folder), digest), folder)
    assert f"python -m job trust {folder}" in caught.value.advice
    assert trust_digest(folder) in caught.value.advice
    trust.require_vouched(sa2va(str(folder), trust_digest(folder)), folder)


def test_kinds_without_code_have_nothing_to_vouch_for(tmp_path: Path) -> None:
    """A plug-in's package must be installed, though."""
    trust.require_vouched(PromptableUNetSpec(), tmp_path)
    with pytest.raises(SpecError, match="no installed package offers"):
        trust.require_vouched(PluginSpec(kind="plugin", name="nobodys", uri=str(tmp_path)), tmp_path)


def test_what_a_candidate_says_of_trust_counts_for_nothing() -> None:
    """Whoever uses it vouches, or nobody does; other kinds have nothing to vouch for."""
    own = sa2va("there", "sha256:" + "1" * 64)
    assert trust.trust_code_of(trust.vouched_by(own, None)) is None
    given = "sha256:" + "2" * 64
    assert trust.trust_code_of(trust.vouched_by(own, given)) == given
    assert trust.vouched_by(PromptableUNetSpec(), given) == PromptableUNetSpec()
