"""The command line: `python -m job SPEC`, and the verbs around it."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from job import __version__, container, last_words, stopping
from job.arguments import Parser, natural, positive
from job.errors import EXIT_OK, EXIT_UNCAUGHT, InputError, SpecError
from job.spec.loading import LoadedSpec, load
from job.spec.problems import SpecProblems, format_json
from job.spec.unwise import warnings
from job.verbs import is_run, with_verb

if TYPE_CHECKING:
    from job.logs import Output
    from job.run import Ended

CANDIDATE = "a run folder, its candidate.json, runs/NAME (the newest run) or models/NAME (the champion)"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code of `job.errors`."""
    words = with_verb(arguments)
    try:
        options = _parser().parse_args(words)
    except SystemExit as stop:  # --help, --version
        return stop.code if isinstance(stop.code, int) else EXIT_UNCAUGHT
    except SpecError as error:
        return last_words.say(error) if is_run(words) else last_words.explain(error)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BrokenPipeError:
        return EXIT_OK  # the reader of our output has left: `python -m job status | head`
    except Exception as error:
        return last_words.explain(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m job",
        description="Train a reward network, fine-tune by reinforcement learning and judge a promptable"
        " segmentation model, as a JSON spec says.",
        epilog="`python -m job SPEC` is short for `python -m job run SPEC`.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    run = _verb(verbs, "run", "run the job that a spec describes, or go on with it", _run, spec=True)
    run.add_argument("--run-id", help="name of the run; else $JOB_RUN_ID, else a digest of spec and inputs")
    validate = _verb(verbs, "validate", "say all that is wrong with a spec, or odd", _validate, spec=True)
    validate.add_argument("--format", choices=("text", "json"), default="text")
    _verb(verbs, "plan", "say what a run would do, compute and reuse", _plan, spec=True)

    evaluate = _verb(verbs, "evaluate", "measure a candidate on images with masks", _evaluate)
    _candidate(evaluate)
    evaluate.add_argument("--data", required=True, metavar="URI", help="dataset folder with masks")
    evaluate.add_argument("--max-samples", type=positive, help="measure only the first N images")
    evaluate.add_argument("--format", choices=("text", "json"), default="text")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    predict = _verb(verbs, "predict", "segment images with a candidate", _predict)
    _candidate(predict)
    predict.add_argument("images", metavar="IMAGES", help="an image, or a folder of images")
    predict.add_argument(
        "--output", required=True, metavar="URI", help="folder for masks and predictions.csv"
    )
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")

    compare = _verb(verbs, "compare", "compare what runs ship on the test images that they share", _compare)
    compare.add_argument("first", metavar="RUN", help=f"what the others are compared with: {CANDIDATE}")
    compare.add_argument("others", metavar="RUN", nargs="+", help="another run, named likewise")
    compare.add_argument(
        "--output", metavar="URI", default="compare.html", help="the page (default: %(default)s)"
    )
    compare.add_argument("--format", choices=("text", "json"), default="text")

    status = _verb(verbs, "status", "list runs: a line a run", _status)
    status.add_argument(
        "output",
        nargs="?",
        default="output",
        metavar="URI",
        help="output.uri of a spec (default: %(default)s)",
    )
    status.add_argument("--json", action="store_true", help="one JSON object a line")
    status.add_argument("--verify", action="store_true", help="read every file and compare its digest")
    promote = _verb(verbs, "promote", "make a run's candidate the champion, or go back to another", _promote)
    promote.add_argument("model", metavar="MODEL", help="output/models/NAME, also in a store")
    promote.add_argument(
        "--to", metavar="RUN",
        help="a run_id, or `previous` for the champion before; by default the newest run, if it was better",
    )  # fmt: skip
    trust = _verb(verbs, "trust", "list the code that a checkpoint brings, and its digest", _trust)
    trust.add_argument("uri", metavar="URI", help="a checkpoint folder, also in a store; only code is read")
    trust.add_argument("--format", choices=("text", "json"), default="text")
    doctor = _verb(verbs, "doctor", "examine the machine, and the stores that a spec or a URI names", _doctor)
    doctor.add_argument("subject", nargs="?", metavar="SPEC|URI", help="a JSON spec, or an output URI")
    doctor.add_argument("--format", choices=("text", "json"), default="text")

    dataset = _verb(verbs, "dataset", "make or check a dataset folder", _missing_verb)
    tools = dataset.add_subparsers(metavar="make|check", required=True)
    make = _verb(tools, "make", "write a synthetic dataset in the dataset layout", _dataset_make)
    make.add_argument("folder", metavar="URI", help="a folder, also in a store")
    for split, count in (("train", 20), ("validation", 20), ("test", 40), ("unlabelled", 0)):
        make.add_argument(
            f"--{split}", type=natural, default=count, metavar="N", help="images (default: %(default)s)"
        )
    make.add_argument("--size", type=positive, default=128, help="pixels a side (default: %(default)s)")
    make.add_argument("--seed", type=natural, default=0, help="(default: %(default)s)")
    make.add_argument("--annotation", choices=("by_clarity", "all"), default="by_clarity")
    check = _verb(tools, "check", "say what is wrong with a dataset folder", _dataset_check)
    check.add_argument("folder", metavar="URI", help="a folder, also in a store")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[Parser]",
    name: str,
    what: str,
    command: Callable[[argparse.Namespace], int],
    *,
    spec: bool = False,
) -> Parser:
    parser = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(command=command)
    if spec:
        parser.add_argument("spec", help="a JSON spec (path, file:// or s3://), or - for standard input")
        parser.add_argument(
            "--set", dest="overrides", metavar="PATH=VALUE", action="append", default=[],
            help="override a value, such as finetune.learning_rate=5e-4; may be given several times",
        )  # fmt: skip
    return parser


def _candidate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("candidate", nargs="?", metavar="CANDIDATE", help=f"{CANDIDATE}; a path or a URI")
    parser.add_argument("--model", metavar="CANDIDATE", help="the same, by name")
    parser.add_argument("--segmenter", metavar="URI", help="where its segmenter lies now, if it has moved")
    parser.add_argument(
        "--trust-code", metavar="SHA256", help="digest of the segmenter's code that you vouch for (trust URI)"
    )


def _place(options: argparse.Namespace) -> str:
    given = [place for place in (options.candidate, options.model) if place]
    if len(given) != 1:
        raise SpecError(
            "name one candidate" if not given else "the candidate is named twice",
            advice="give it as --model CANDIDATE, such as --model output/runs/quick",
        )
    return str(given[0])


def _loaded(options: argparse.Namespace) -> LoadedSpec:
    return load(options.spec, overrides=options.overrides)


def _run(options: argparse.Namespace) -> int:
    """Run a job; whatever it fails of, its last words are said."""
    output: Output | None = None
    try:
        stopping.limit(say=last_words.say)
        loaded = _loaded(options)
        from job import logs

        runtime = loaded.spec.runtime
        output = logs.Output(level=runtime.log_level)
        stopping.limit(
            grace_s=runtime.interrupt_grace_s,
            deadline_s=runtime.deadline_s,
            say=partial(last_words.say, output=output),
        )
        stopping.raise_if_stopped()
        from job.places import Places

        Places.of(loaded.spec).require_output()  # told before the job's own imports, which take longer
        from job import run

        ended = run.run(loaded, output, run_id=options.run_id)
        _tell_answer(ended, output)
        return ended.exit_code if ended.failure is None else last_words.say(ended.failure, output)
    except (Exception, SystemExit) as error:  # a library that ends the process has not done the work
        return last_words.say(error, output)
    finally:
        stopping.release()
        if output is not None:
            output.close()


def _tell_answer(ended: "Ended", output: "Output") -> None:
    """Print the answer for people: on the terminal; of a container, whose output is events, beside it."""
    if output.console is None and not container.is_image():
        return
    from rich.console import Console

    from job.report.summary import print_answer

    console = output.console or Console(file=sys.stderr, width=120)
    run_folder = ended.folder.path
    with suppress(OSError, SystemExit):  # the terminal has gone, which is how rich says so
        print_answer(console, run_folder, ended.uri)
        if ended.uri == str(run_folder) and (
            note := container.results_note(run_folder, run_folder.parents[2])
        ):
            console.print(note, soft_wrap=True, markup=False, highlight=False)


def _validate(options: argparse.Namespace) -> int:
    try:
        loaded = _loaded(options)
    except SpecProblems as error:
        if options.format == "json":
            print(format_json(error.problems))
            return error.exit_code
        raise
    odd, is_json = warnings(loaded), options.format == "json"
    print(format_json([], odd) if is_json else f"{loaded.source}: valid")
    for warning in [] if is_json else odd:
        print(f"{loaded.source}: warning: {warning}", file=sys.stderr)
    return EXIT_OK


def _plan(options: argparse.Namespace) -> int:
    from job import plan

    print(plan.plan(_loaded(options)))
    return EXIT_OK


def _evaluate(options: argparse.Namespace) -> int:
    from job import apply_candidate, candidate_segmenter

    report = apply_candidate.evaluate(
        _place(options), options.data, max_samples=options.max_samples, device=options.device,
        opening=candidate_segmenter.Opening(options.segmenter, options.trust_code),
    )  # fmt: skip
    print(json.dumps(report.to_json(), indent=1) if options.format == "json" else report.to_text())
    return EXIT_OK


def _predict(options: argparse.Namespace) -> int:
    from job import apply_candidate, candidate_segmenter

    summary = apply_candidate.predict(
        _place(options), options.images, options.output, device=options.device,
        opening=candidate_segmenter.Opening(options.segmenter, options.trust_code),
    )  # fmt: skip
    print(summary)
    return EXIT_OK


def _compare(options: argparse.Namespace) -> int:
    from job.evaluation.compare import compare, open_runs
    from job.report.compare import to_json, to_text
    from job.report.compare_page import render_comparison
    from job.storage.uris import open_store, parent_and_name

    folder, name = parent_and_name(options.output)
    place = open_store(folder)
    if place.stat("manifest.json") is not None:
        raise SpecError(
            f"--output: {folder} is a run folder, whose files must not change", advice="name another folder"
        )
    comparison = compare(open_runs([options.first, *options.others]))
    text = to_text(comparison) if options.format == "text" else json.dumps(to_json(comparison), indent=1)
    print(text)  # first: the answer is not lost where the page cannot be written
    place.write(name, render_comparison(comparison).encode())
    if options.format == "text":
        print(f"\npage: {options.output}")
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from job import status

    found = status.look(options.output, verify=options.verify)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    print("\n".join(json.dumps(run) for run in found.runs) if options.json else status.table(found.runs))
    return found.exit_code


def _promote(options: argparse.Namespace) -> int:
    from job.publish import promotion

    champion = promotion.by_hand(options.model, options.to)
    print(f"{options.model}: the champion is {champion.current.run} ({champion.candidate})")
    return EXIT_OK


def _trust(options: argparse.Namespace) -> int:
    from job import trust

    uri, is_json = options.uri, options.format == "json"
    code = trust.code_at(uri)
    print(json.dumps(trust.to_json(uri, code), indent=1) if is_json else trust.to_text(uri, code))
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from job import doctor

    findings = doctor.examine(options.subject)
    print(doctor.to_json(findings) if options.format == "json" else doctor.to_text(findings))
    return doctor.exit_code(findings)


def _dataset_make(options: argparse.Namespace) -> int:
    from job.data.annotations import ANNOTATIONS
    from job.data.synthetic import make_dataset
    from job.device import available_cpus
    from job.exchange import outbox
    from job.logs import Output, ReportedProgress

    counts = {split: getattr(options, split) for split in ("train", "validation", "test", "unlabelled")}
    with outbox(options.folder, new=True) as out:
        make_dataset(
            out.folder, **counts, size=options.size, seed=options.seed, annotation=options.annotation,
            progress=ReportedProgress(Output(), every_s=10.0), threads=available_cpus(),
        )  # fmt: skip
        out.send(ANNOTATIONS, (out.folder / ANNOTATIONS).read_text(encoding="utf-8"))
    print(f"{sum(counts.values())} images in {options.folder}")
    return EXIT_OK


def _dataset_check(options: argparse.Namespace) -> int:
    from job.data.checking import check_folder
    from job.exchange import Inbox
    from job.logs import Output, ReportedProgress

    output = Output(stream=sys.stderr)
    with closing(Inbox(ReportedProgress(output, every_s=10.0), output.log)) as inbox:
        findings = check_folder(inbox.folder(options.folder), as_users_know=inbox.as_users_know)
    for finding in findings:
        advice = f"; {finding.advice}" if finding.advice else ""
        print(f"{finding.severity}: {finding.where}: {finding.what}{advice}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{options.folder}: {_counted(errors, 'error')}, {_counted(len(findings) - errors, 'warning')}")
    return InputError.exit_code if errors else EXIT_OK


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _missing_verb(options: argparse.Namespace) -> int:
    raise AssertionError("argparse requires make or check")
