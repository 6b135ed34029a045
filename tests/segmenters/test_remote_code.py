"""The trust in a checkpoint's code: what counts as code, and that nothing runs unvouched for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import InputError, IntegrityError
from job.segmenters.remote_code import code_of, matters, read_code, trust_digest, trusted_code

CONFIG = {"auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "configuration.Config"}}


def checkpoint(folder: Path) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "modeling.py").write_text("x = 1\n")
    (folder / "parts" / "inner.py").write_text("y = 2\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("words")
    return folder


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("modeling.py", True),
        ("parts/inner.py", True),
        ("config.json", True),
        ("tokenizer_config.json", True),
        ("generation_config.json", True),
        ("parts/config.json", False),
        ("tokenizer.json", False),
        ("model.safetensors", False),
        (".git/hooks/evil.py", False),
        ("__pycache__/modeling.py", False),
        ("notes.pyc", False),
    ],
)
def test_code_is_python_and_class_references(name: str, counts: bool) -> None:
    """Python files anywhere and the configurations at the top count, nothing hidden and nothing else."""
    assert matters(name) is counts


def test_equal_code_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    """Weights, words and the place of the folder do not matter; a store's listing gives the same digest."""
    one, other = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    (other / "README.md").unlink()
    files = {p.relative_to(one).as_posix(): p.read_bytes() for p in one.rglob("*") if p.is_file()}
    assert trust_digest(one) == trust_digest(other) == code_of(files).digest
    assert trust_digest(one).startswith("sha256:")
    assert len(trust_digest(one)) == len("sha256:") + 64


@given(name=st.sampled_from(["modeling.py", "parts/inner.py"]), addition=st.binary(min_size=1, max_size=20))
def test_any_changed_byte_of_code_changes_the_digest(name: str, addition: bytes) -> None:
    """Whatever is added to a code file, wherever: another digest."""
    files = {"config.json": json.dumps(CONFIG).encode(), "modeling.py": b"x = 1\n", "parts/inner.py": b"y\n"}
    before = code_of(files).digest
    assert code_of({**files, name: files[name] + addition}).digest != before
    assert code_of({**files, name: addition + files[name]}).digest != before


def test_moved_added_and_renamed_code_changes_the_digest() -> None:
    """The names of files and the classes that configurations name are part of what is vouched for."""
    files = {"config.json": json.dumps(CONFIG).encode(), "modeling.py": b"x"}
    digests = {
        code_of(files).digest,
        code_of({**files, "more.py": b""}).digest,
        code_of({"config.json": files["config.json"], "model.py": b"x"}).digest,
        code_of({**files, "config.json": b'{"auto_map": {"AutoModel": "modeling.Other"}}'}).digest,
        code_of({**files, "tokenizer_config.json": files["config.json"]}).digest,
    }
    assert len(digests) == 5


def test_other_settings_of_a_configuration_are_no_code() -> None:
    """A changed number in config.json leaves the digest alone: it names no class."""
    number = json.dumps({**CONFIG, "hidden_size": 8}).encode()
    other = json.dumps({"hidden_size": 16, **CONFIG}).encode()
    assert code_of({"config.json": number}).digest == code_of({"config.json": other}).digest


def test_only_the_vouched_for_code_is_given_out(tmp_path: Path) -> None:
    """The right digest gives the files; any other ends with exit code 4, the digest and a command."""
    folder = checkpoint(tmp_path / "c")
    needed = trust_digest(folder)
    assert trusted_code(folder, needed).files["modeling.py"] == b"x = 1\n"
    for wrong in (None, "sha256:" + "0" * 64, needed.upper(), needed.removeprefix("sha256:"), ""):
        with pytest.raises(IntegrityError) as caught:
            trusted_code(folder, wrong, "s3://bucket/checkpoint")
        assert caught.value.exit_code == 4
        assert needed in caught.value.advice
        assert "python -m job trust s3://bucket/checkpoint" in caught.value.advice


def test_code_of_other_repositories_is_refused() -> None:
    """A class reference with `--` would fetch code that no digest of this folder covers."""
    for reference in ("someone/else--modeling.Model", [None, "someone/else--tok.Tok"]):
        config = json.dumps({"auto_map": {"AutoModel": reference}}).encode()
        with pytest.raises(IntegrityError, match="another repository"):
            code_of({"config.json": config})


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_configuration_is_an_input_error(content: bytes) -> None:
    """What is no JSON object is named, with exit code 3."""
    with pytest.raises(InputError, match=r"config\.json"):
        code_of({"config.json": content})


def test_references_are_found_by_configuration(tmp_path: Path) -> None:
    """A tokenizer's pair of slow and fast class gives the one that there is."""
    folder = checkpoint(tmp_path / "c")
    tokenizer = {"auto_map": {"AutoTokenizer": [None, "tok.Fast"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    code = read_code(folder)
    assert code.reference("AutoModel") == "modeling.Model"
    assert code.reference("AutoProcessor") is None
    assert code.reference("AutoTokenizer", "tokenizer_config.json") == "tok.Fast"
    assert code.reference("AutoTokenizer", "nowhere.json") is None
