"""report.html: one self-contained page that needs no network, no fonts and no script to be read."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

import jinja2
from markupsafe import Markup

from job.publish.training_info import TrainingInfo
from job.report import numbers, summary
from job.report.bad_images import bad_images_sentence, bad_images_table
from job.report.champion import contest, drift_view
from job.report.checks import check_groups, dropped, failures
from job.report.configuration import settings
from job.report.folds import folds_sentence, folds_table
from job.report.images import LEFT_OUT, image_rows, leaves_out_pictures, overlays
from job.report.judges import coverage_sentence, judges_sentence, judges_table, review_sentence
from job.report.ladder import dot_plot, metric_table, numbers_behind
from job.report.measures import convention_table, protocol_list
from job.report.others import other_datasets
from job.report.pictures import Panel
from job.report.provenance import provenance
from job.report.strips import fooled, probe_chart, seed_chart, seeds_sentence
from job.report.sweep import CHOSEN, sweep_table
from job.report.training import (
    chosen_actions,
    has_policy,
    policy_curves,
    reward_curve,
    reward_findings,
    reward_formula,
    reward_scales,
    reward_source,
)
from job.report.weights import course_table, phase_curves, phases_sentence, phases_table
from job.report.words import JUDGED, MARKS, VERDICTS

TEMPLATES = "templates"


def render_html(info: TrainingInfo, panels: Mapping[str, Panel]) -> str:
    """Render the report of a run; `panels` by image name, of any or all test images.

    The page carries a content security policy that allows its own style and script by their digests and
    nothing else, so that no text of a data set can load or run anything, even if escaping failed.
    """
    style, script = text("report.css"), text("report.js")
    results = info.results
    significance = summary.significance(info)
    ladder = summary.ladder(info)
    plot = dot_plot(ladder, significance)
    return (
        environment()
        .get_template("report.html")
        .render(
            info=info,
            verdict=results.verdict,
            words=VERDICTS[results.verdict.verdict],
            ships=summary.ships(info),
            skipped=summary.skipped(info),
            to_decide=summary.what_would_decide(results.verdict),
            learned=summary.learned(info),
            experiments=summary.experiments(info),
            contest=contest(info),
            drift=drift_view(info),
            check_groups=check_groups(info),
            invalid_checks=failures(info, "validity"),
            dropped=dropped(info),
            plot=plot,
            numbers=numbers_behind(ladder),
            metrics=metric_table(ladder, plot),
            protocol=protocol_list(results.protocol),
            conventions=convention_table(results.conventions, results.verdict.ships),
            others=other_datasets(results.other_datasets),
            no_pictures=LEFT_OUT if leaves_out_pictures(info) else "",
            overlays=overlays(info, panels),
            images=image_rows(info, panels),
            has_policy=has_policy(info),
            curves=policy_curves(info.finetune.iterations, n_actions=len(info.actions)),
            reward_curve=reward_curve(info.reward),
            reward_findings=reward_findings(info.reward),
            reward_source=reward_source(info.reward),
            reward_formula=reward_formula(info.reward.terms),
            reward_scales=reward_scales(info.reward),
            judges=judges_table(results.judges),
            judges_sentence=judges_sentence(results.judges),
            coverage=coverage_sentence(results.coverage),
            review=review_sentence(results.review),
            probe_chart=probe_chart(info.reward.probes),
            fooled=fooled(info.reward.probes),
            seed_chart=seed_chart(info),
            seeds_sentence=seeds_sentence(info.finetune.seeds),
            folds=folds_table(info.folds),
            folds_sentence=folds_sentence(info.folds),
            sweep=sweep_table(info.sweep),
            sweep_note=CHOSEN,
            phases=phases_table(info),
            courses=course_table(info),
            phases_sentence=phases_sentence(info),
            phase_curves=phase_curves(info),
            chosen=chosen_actions(info),
            bad_images=bad_images_table(info.data.bad_images),
            bad_images_sentence=bad_images_sentence(info.data.bad_images),
            settings=settings(info.spec, info.origins),
            provenance=provenance(info),
            style=Markup(style),  # noqa: S704 - the package's own file
            script=Markup(script),  # noqa: S704 - the package's own file
            policy=(
                f"default-src 'none'; img-src data:; style-src '{digest(style)}';"
                f" script-src '{digest(script)}'; base-uri 'none'; form-action 'none'"
            ),
        )
    )


def environment() -> jinja2.Environment:
    """Return the templates with the words and figures that they draw with."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("job.report", TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "figure": numbers.figure,
        "signed": numbers.signed,
        "interval": numbers.interval,
        "duration": numbers.duration,
        "moment": numbers.moment,
        "capitalised": summary.capitalised,
        "corrected": summary.corrected,
    }
    templates.globals |= {"count": numbers.count, "MARKS": MARKS, "JUDGED": JUDGED}
    return templates


def text(name: str) -> str:
    """Return a file of the templates' folder."""
    return (resources.files("job.report") / TEMPLATES / name).read_text(encoding="utf-8")


def digest(source: str) -> str:
    """Return a style's or script's digest as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
