import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from job.spec.loading import MAX_BYTES, MAX_PROBLEMS, load
from job.spec.problems import Problem, SpecProblems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(source: str, *overrides: str) -> tuple[Problem, ...]:
    """Load a spec that has problems and return them."""
    with pytest.raises(SpecProblems) as caught:
        load(source, overrides=overrides)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return caught.value.problems


def problem_lines(source: str, *overrides: str) -> list[str]:
    """Load a spec that has problems and return them as lines."""
    return [str(problem) for problem in problems_of(source, *overrides)]


def test_all_problems_come_at_once_each_at_its_key_value_or_object(folder: Path) -> None:
    """Unknown keys point at the key, wrong values at the value, missing keys at the enclosing object."""
    Path("x.json").write_text(
        "{\n"
        '  "$schema": "job.schema.json",\n'
        '  "finetune": {\n'
        '    "lerning_rate": 1e-4,\n'
        '    "n_envs": 2,   "n_steps": "128",\n'
        '\t"net_arch": {"pi": [64, "32"]}\n'
        "  },\n"
        '  "data": {\n'
        '    "split":   {"kind": "patients", "train": ["a"], "test": ["b"]},\n'
        '    "width": "wide"\n'
        "  },\n"
        '  "reward": {"terms": {"dice": 1, "dise": 1}}\n'
        "}\n"
    )
    assert problem_lines("x.json") == [
        "x.json:1:1: name: required key is missing: names the run folder: lower-case letters, digits, dots, "
        "dashes, underscores",
        "x.json:4:5: finetune.lerning_rate: unknown key; did you mean learning_rate?",
        'x.json:5:31: finetune.n_steps: expected an integer, got "128"; write 128',
        'x.json:6:26: finetune.net_arch.pi[1]: expected an integer, got "32"; write 32',
        "x.json:9:16: data.split.validation: required key is missing: patients whose images decide between "
        "candidates",
        'x.json:10:14: data.width: expected an integer, got "wide"',
        "x.json:12:35: reward.terms.dise: unknown key; did you mean dice?",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 'x.json: the spec is empty; the smallest one is {"name": "x"}'),
        (" \n", 'x.json: the spec is empty; the smallest one is {"name": "x"}'),
        ("[]", 'x.json:1:1: expected an object such as {"name": "x"}, got a list'),
        ('\n "x"', 'x.json:2:2: expected an object such as {"name": "x"}, got a single value'),
        (
            '{"name": "x",\n "seed": 1,\n}',
            'x.json:2:11: comma before }; remove it; the line reads: "seed": 1,',
        ),
        ('{"name": "x"\n "token": "abc"}', "x.json:2:2: expected a comma or }"),
        (
            '{"name": "x",\n "name": "y"}',
            "x.json:2:2: name: duplicate key, first given on line 1; remove one",
        ),
        ('{"name": "x", "seed": NaN}', "x.json:1:23: seed: NaN is not a JSON number; write a finite one"),
        (
            '{"name": "x", "finetune": {"gamma": 1e999}}',
            "x.json:1:37: finetune.gamma: the number is too large for float64; write a smaller one",
        ),
        ('{"name": "x", "version": true}', "x.json:1:26: version: expected 1, got true"),
        ('{"name": "x", "schema_": "y"}', "x.json:1:15: schema_: unknown key; did you mean $schema?"),
        (
            '{"name": "x", "finetune": {"n_steps": 16}}',
            "x.json:1:27: finetune.batch_size: 64 exceeds n_steps x n_envs = 32; write at most 32",
        ),
        (
            '{"name": "x", "finetune": {"batch_size": 51, "n_steps": 128}}',
            "x.json:1:42: finetune.batch_size: 51 leaves a minibatch of one step of 256 (n_steps x n_envs), "
            "whose advantage cannot be normalised; choose a divisor",
        ),
        (
            '{"name": "x", "data": {"split": '
            '{"kind": "patients", "train": ["a"], "validation": ["b"], "test": ["a"]}}}',
            "x.json:1:100: data.split.test[0]: this patient is in train already; remove one",
        ),
        (
            '{"name": "x", "data": {"split": {"kind": "hash", "validation": 0.5, "test": 0.5}}}',
            "x.json:1:77: data.split.test: validation + test = 1 leaves no patient to train on",
        ),
    ],
)
def test_each_mistake_has_its_line(folder: Path, text: str, line: str) -> None:
    """One mistake, one problem, at the line and column where an editor would put the cursor."""
    Path("x.json").write_text(text)
    assert problem_lines("x.json") == [line]


def test_files_that_cannot_be_read_say_why(folder: Path) -> None:
    """A missing, unreadable, too large or wrongly encoded file is one clear problem with exit code 2."""
    Path("specs").mkdir()
    Path("specs/quick.json").write_text('{"name": "x"}')
    Path("specs/job.schema.json").write_text("{}")
    Path("latin.json").write_bytes(b'{\n "name": "caf\xe9"}')
    Path("large.json").write_bytes(b" " * (MAX_BYTES + 1))
    assert problem_lines("specs/quik.json") == [
        "specs/quik.json: no such file; did you mean specs/quick.json?"
    ]
    assert problem_lines("specs/other.json") == ["specs/other.json: no such file; there are quick.json"]
    assert problem_lines("nope/x.json") == ["nope/x.json: no such file; nor is there a folder nope"]
    assert problem_lines("specs") == ["specs: this is a directory, not a spec; there are quick.json"]
    assert problem_lines("latin.json") == ["latin.json:2:14: not UTF-8 (byte 0xe9); save the file as UTF-8"]
    assert problem_lines("large.json") == [
        "large.json: larger than 1,048,576 bytes; a spec names data, it does not hold them"
    ]
    assert problem_lines("x\0y") == ["x\\u0000y: this is no file name"]
    assert problem_lines("a" * 300) == ["a" * 300 + ": cannot be read: file name too long"]


def test_a_spec_comes_from_standard_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input, and messages call it so; a byte order mark is no character of the text."""
    stdin = io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf{"name": "x"}'))
    monkeypatch.setattr(sys, "stdin", stdin)
    loaded = load("-")
    assert loaded.source == "<stdin>"
    assert loaded.origins == {"name": "<stdin>:1:10"}


def test_every_value_that_is_not_a_default_has_an_origin(folder: Path) -> None:
    """Values of the file have their place, those of options `--set`; the defaults around them have none."""
    Path("x.json").write_text('{"name": "x",\n "finetune": {"n_steps": 64, "net_arch": {"vf": []}}}')
    loaded = load(
        "x.json", overrides=["finetune.net_arch.pi[0]=32", "finetune.n_steps=128", "reward.terms.iou=1"]
    )
    assert loaded.origins == {
        "name": "x.json:1:10",
        "finetune.n_steps": "--set",
        "finetune.net_arch.vf": "x.json:2:49",
        "finetune.net_arch.pi[0]": "--set",
        "reward.terms.iou": "--set",
    }
    assert loaded.spec.finetune.net_arch.pi == [32, 64]
    assert loaded.spec.reward.terms == {"reward_net": 0.5, "dice": 0.5, "iou": 1.0}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("finetune.gamma=abc", '--set finetune.gamma=abc: finetune.gamma: expected a number, got "abc"'),
        ("finetune.gama=1", "--set finetune.gama=1: finetune.gama: unknown key; did you mean gamma?"),
        ("fintune.gamma=1", "--set fintune.gamma=1: fintune: unknown key; did you mean finetune?"),
        (
            "actions.prompt[0]=a",
            "--set actions.prompt[0]=a: actions.prompt: unknown key; did you mean prompts?",
        ),
        (
            "data.split.kind=column",
            'x.json:2:53: data.split.test: belongs to "auto", "hash" or "patients", and this is "column";'
            " known here: kind",
        ),
        (
            "cache.n_steps=1",
            "--set cache.n_steps=1: cache.n_steps: unknown key; did you mean finetune.n_steps?",
        ),
        (
            "data.seed.x.y=1",
            "--set data.seed.x.y=1: data.seed: unknown key; did you mean seed or data.synthetic.seed?",
        ),
        (
            "finetune.n_steps=16",
            "--set finetune.n_steps=16: finetune.batch_size: 64 exceeds n_steps x n_envs = 32; "
            "write at most 32",
        ),
        (
            "actions.prompts[6]=Segment the major vessels.",
            "--set actions.prompts[6]=Segment the major vessels.: actions.prompts[6]: repeats prompts[2]; "
            "remove one",
        ),
    ],
)
def test_a_problem_that_an_option_brought_names_the_option(folder: Path, override: str, line: str) -> None:
    """Where the file is fine, the reader is sent to the command line, and else to the file."""
    Path("x.json").write_text(
        '{"name": "x",\n "data": {"uri": "a", "split": {"kind": "hash",     "test": 0.1}}}'
    )
    assert problem_lines("x.json", override) == [line]


def test_an_option_mends_what_the_file_has_wrong(folder: Path) -> None:
    """A refused or wrong value that an option replaces is no problem any more."""
    Path("x.json").write_text('{"name": "My Run", "seed": NaN}')
    assert load("x.json", overrides=["name=mine", "seed=3"]).spec.seed == 3


def test_secrets_in_a_wrong_spec_stay_out_of_every_message(folder: Path) -> None:
    """Wherever a canary stands in a broken spec, no line that is printed has it."""
    canary = "hunter2canary"
    Path("x.json").write_text(
        json.dumps(
            {"name": {"password": canary}, "output": {"secret": canary, "uri": [f"https://u:{canary}@h"]}}
        )
    )
    options = [f"data.token={canary}", f"cache.uri.x=https://u:{canary}@h", f"seed=https://h?sig={canary}"]
    assert len(problem_lines("x.json", *options)) == 8
    assert canary not in "\n".join(problem_lines("x.json", *options))
    Path("y.json").write_text(f'{{"access_key": "{canary}" "uri": 1}}')
    assert canary not in problem_lines("y.json")[0]


def test_a_spec_with_very_many_problems_lists_the_first_hundred(folder: Path) -> None:
    """A file of the largest size full of mistakes is answered, not digested."""
    Path("x.json").write_text(json.dumps({"name": "x", **{f"key{i}": 0 for i in range(2000)}}))
    lines = problem_lines("x.json")
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == "x.json: and more problems; mend these first"


def test_loading_imports_nothing_heavy() -> None:
    """`validate` answers at once because neither torch nor numpy is imported to load a spec."""
    heavy = ["torch", "numpy", "skimage", "matplotlib", "difflib", "jsonschema"]
    code = f"import sys, job.spec.loading; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_a_power_below_the_error_rate_is_refused(tmp_path: Path) -> None:
    """No test has less power than it has false alarms: said of the spec, before anything runs."""
    spec = tmp_path / "s.json"
    spec.write_text('{"name": "x", "checks": {"power": 0.06}, "evaluate": {"confidence": 0.9}}')
    with pytest.raises(SpecProblems, match=r"checks\.power: 0\.06 must exceed the error rate"):
        load(str(spec))
