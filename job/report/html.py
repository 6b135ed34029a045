"""report.html: one self-contained page that needs no network, no fonts and no script to be read."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

import jinja2
from markupsafe import Markup

from job.publish.training_info import TrainingInfo
from job.report import numbers, summary
from job.report.configuration import settings
from job.report.images import image_rows, overlays
from job.report.ladder import dot_plot, metric_table
from job.report.pictures import Panel
from job.report.provenance import provenance
from job.report.training import (
    chosen_actions,
    policy_curves,
    reward_curve,
    reward_findings,
    reward_formula,
    reward_source,
)
from job.report.words import JUDGED, MARKS, VERDICTS

TEMPLATES = "templates"


def render_html(info: TrainingInfo, panels: Mapping[str, Panel]) -> str:
    """Render the report of a run; `panels` by image name, of any or all test images.

    The page carries a content security policy that allows its own style and script by their digests and
    nothing else, so that no text of a data set can load or run anything, even if escaping failed.
    """
    style, script = _text("report.css"), _text("report.js")
    plot = dot_plot(info.results.ladder)
    return (
        _environment()
        .get_template("report.html")
        .render(
            info=info,
            verdict=info.results.verdict,
            words=VERDICTS[info.results.verdict.verdict],
            ships=summary.ships(info),
            to_decide=summary.what_would_decide(info.results.verdict),
            learned=summary.learned(info.results.verdict),
            experiments=summary.experiments(info),
            checks=sorted(info.checks, key=lambda check: check.passed),
            invalid_checks=[c for c in info.checks if not c.passed and c.severity == "validity"],
            plot=plot,
            metrics=metric_table(info.results.ladder, plot),
            overlays=overlays(info, panels),
            images=image_rows(info, panels),
            curves=policy_curves(info.finetune.iterations, n_actions=len(info.actions)),
            reward_curve=reward_curve(info.reward),
            reward_findings=reward_findings(info.reward),
            reward_source=reward_source(info.reward),
            reward_formula=reward_formula(info.reward.terms),
            chosen=chosen_actions(info),
            settings=settings(info.spec, info.origins),
            provenance=provenance(info),
            style=Markup(style),  # noqa: S704 - the package's own file
            script=Markup(script),  # noqa: S704 - the package's own file
            policy=(
                f"default-src 'none'; img-src data:; style-src '{_digest(style)}';"
                f" script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
            ),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("job.report", TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numbers.figure,
        "signed": numbers.signed,
        "interval": numbers.interval,
        "duration": numbers.duration,
        "moment": numbers.moment,
        "capitalised": summary.capitalised,
    }
    environment.globals |= {"count": numbers.count, "MARKS": MARKS, "JUDGED": JUDGED}
    return environment


def _text(name: str) -> str:
    return (resources.files("job.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
