import json

from job.errors import SpecError
from job.spec.problems import Problem, SpecProblems, format_json

IN_FILE = Problem("specs/x.json", 7, 25, "finetune.n_steps", 'expected an integer, got "128"; write 128')
OPTION = Problem("--set seed", None, None, "", "expected PATH=VALUE")


def test_problems_read_like_a_compilers() -> None:
    """Source, line and column come first, so that editors can jump; what is unknown is left out."""
    assert str(IN_FILE) == 'specs/x.json:7:25: finetune.n_steps: expected an integer, got "128"; write 128'
    assert str(OPTION) == "--set seed: expected PATH=VALUE"


def test_the_error_holds_all_problems_and_ends_the_job_with_2() -> None:
    """Its text is every problem on a line of its own."""
    error = SpecProblems([IN_FILE, OPTION])
    assert isinstance(error, SpecError)
    assert error.exit_code == 2
    assert str(error).splitlines() == [str(IN_FILE), str(OPTION)]
    assert error.problems == (IN_FILE, OPTION)


def test_json_says_whether_the_spec_is_valid_and_holds_every_field() -> None:
    """A program reads the same list as a person."""
    assert json.loads(format_json([], ["odd"])) == {"valid": True, "problems": [], "warnings": ["odd"]}
    answer = json.loads(format_json([IN_FILE, OPTION]))
    assert answer["valid"] is False
    assert answer["problems"][0] == {
        "source": "specs/x.json",
        "line": 7,
        "column": 25,
        "path": "finetune.n_steps",
        "message": 'expected an integer, got "128"; write 128',
    }
    assert answer["problems"][1]["line"] is None
