"""Tables over seeds with patient-clustered intervals: Markdown, JSON, a page that needs no network."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from benchmarks.weights_runs import Result, Setting
from job.metrics.statistics import Interval, Uplift, paired_uplift, patient_interval
from job.report.charts import LineChart
from job.report.html import digest, environment, text
from job.report.markdown import escape
from job.report.numbers import figure, p_value, signed, spread
from job.report.tables import Row, Table, table
from job.storage import strict_json
from job.storage.local import write_atomic

METRICS = {
    "dice": "Dice",
    "cldice": "clDice",
    "betti0_error": "components off ↓",
    "betti1_error": "holes off ↓",
    "betti_error": "Betti error ↓",
}
"""Names of a mask's figures; the last is the sum of the two before."""
DIGITS = {"betti0_error": 1, "betti1_error": 1, "betti_error": 1}

_PAGE = """{% import "macros.html" as draw %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<header class="page"><p class="run"><b>{{ title }}</b></p></header>
<main>
{% for section in sections %}
<section aria-labelledby="s{{ loop.index }}">
  <h2 id="s{{ loop.index }}">{{ section.title }}</h2>
  {% for line in section.text %}<p>{{ line }}</p>{% endfor %}

  {% for t in section.tables %}{{ draw.table(t, "s" ~ loop.index) }}{% endfor %}

  {% if section.charts %}
  <div class="charts">{% for chart in section.charts %}{{ draw.line_chart(chart) }}{% endfor %}</div>
  {% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Arm:
    """An arm's figures on test images, `by_metric[metric][seed][image]`, and validation Dice by seed."""

    name: str
    by_metric: Mapping[str, Sequence[Mapping[str, float]]]
    validation: Sequence[float] = ()

    @classmethod
    def of(cls, name: str, seeds: Sequence[Sequence[Result]], which: str = "chosen") -> "Arm":
        """Gather results: of each seed one, or one a fold, whose test images are then put together."""
        by_metric: dict[str, list[dict[str, float]]] = {metric: [] for metric in METRICS}
        for results in seeds:
            for metric, values in by_metric.items():
                values.append(
                    {
                        image: _value(measured, metric)
                        for result in results
                        for image, measured in result["test"][which].items()
                    }
                )
        means = [
            float(np.mean([result["validation"] for result in results]))
            for results in seeds
            if all("validation" in result for result in results)
        ]
        return cls(name, by_metric, means)

    def images(self, metric: str) -> dict[str, float]:
        """Return the mean over seeds of each test image."""
        seeds = self.by_metric[metric]
        return {image: float(np.mean([seed[image] for seed in seeds])) for image in seeds[0]}

    def interval(self, metric: str, patients: Mapping[str, str]) -> Interval:
        """Return the mean over patients with its interval; an image counts by its mean over seeds."""
        images = self.images(metric)
        return patient_interval(list(images.values()), [patients[image] for image in images])

    def against(self, other: "Arm", metric: str, patients: Mapping[str, str]) -> Uplift:
        """Return the paired difference to another arm, clustered by patient; seeds are averaged before."""
        mine, theirs = self.images(metric), other.images(metric)
        assert mine.keys() == theirs.keys(), f"{self.name} and {other.name} were tested on other images"
        names = list(mine)
        return paired_uplift(
            [mine[name] for name in names],
            [theirs[name] for name in names],
            [patients[name] for name in names],
        )


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[LineChart] = ()
    data: Any = field(default=None)
    """The same figures for other programs, plain JSON."""


def arms_table(
    arms: Sequence[Arm], patients: Mapping[str, str], against: Sequence[Arm], marked: str = ""
) -> tuple[Table, Any]:
    """Set arms one below the other: Dice by seed, means, and paired differences in Dice to some of them."""
    n_seeds = max(len(arm.by_metric["dice"]) for arm in arms)
    head = [
        "Arm", *(f"Dice, seed {seed}" for seed in range(n_seeds)), "Dice", "95 % interval",
        *(name for metric, name in METRICS.items() if metric not in ("dice", "betti_error")),
        *(column for other in against for column in (f"Dice against {other.name}", "95 % interval")),
    ]  # fmt: skip
    rows, data = [], []
    for arm in arms:
        seeds = [_patients_mean(seed, patients) for seed in arm.by_metric["dice"]]
        dice = arm.interval("dice", patients)
        uplifts = [None if other is arm else arm.against(other, "dice", patients) for other in against]
        others = {m: arm.interval(m, patients) for m in METRICS if m not in ("dice", "betti_error")}
        cells = [
            arm.name,
            *(figure(seeds[seed] if seed < len(seeds) else None) for seed in range(n_seeds)),
            figure(dice.mean),
            spread(dice),
            *(figure(of.mean, DIGITS.get(metric, 3)) for metric, of in others.items()),
        ]
        for uplift in uplifts:
            cells += ["", ""] if uplift is None else [signed(uplift.mean), spread(uplift)]
        rows.append(Row(tuple(cells), is_marked=arm.name == marked))
        data.append(
            {
                "arm": arm.name,
                "validation_by_seed": list(arm.validation),
                "test_dice_by_seed": seeds,
                "test": {"dice": asdict(dice), **{metric: asdict(of) for metric, of in others.items()}},
                "dice_against": {
                    other.name: asdict(uplift)
                    for other, uplift in zip(against, uplifts, strict=True)
                    if uplift is not None
                },
                "images": {metric: arm.images(metric) for metric in METRICS},
            }
        )
    return _made(head, rows), data


def differences_table(
    arms: Sequence[Arm], before: Arm, metrics: Sequence[str], patients: Mapping[str, str]
) -> tuple[Table, list[dict[str, Any]]]:
    """Set out paired differences of arms to one arm in several metrics."""
    head = ["Arm", "Figure", before.name, "after", "difference", "95 % interval", "p", "images up / down"]
    rows, data = [], []
    for arm in arms:
        for metric in metrics:
            uplift = arm.against(before, metric, patients)
            digits = DIGITS.get(metric, 3)
            rows.append(
                Row(
                    (
                        arm.name,
                        METRICS[metric],
                        figure(before.interval(metric, patients).mean, digits),
                        figure(arm.interval(metric, patients).mean, digits),
                        signed(uplift.mean, max(2, digits)),
                        spread(uplift),
                        p_value(uplift.p_value),
                        f"{uplift.wins} / {uplift.losses}",
                    )
                )
            )
            data.append({"arm": arm.name, "before": before.name, "metric": metric, **asdict(uplift)})
    return _made(head, rows, n_text=2), data


def best_on_validation(arms: Sequence[Arm]) -> Arm:
    """Return the arm of the highest mean Dice on validation, whatever it does on test images."""
    return max(arms, key=lambda arm: float(np.mean(arm.validation)))


def write(
    root: Path, title: str, sections: Sequence[Section], setting: Setting, results: Mapping[str, Result]
) -> None:
    """Write report.md, report.html and report.json into a folder, and print the Markdown."""
    sections = [*sections, _provenance(setting, results)]
    style = text("report.css")
    page = environment().from_string(_PAGE).render(
        title=title,
        sections=sections,
        style=Markup(style),  # noqa: S704 - the package's own file
        policy=f"default-src 'none'; style-src '{digest(style)}'; base-uri 'none'; form-action 'none'",
    )  # fmt: skip
    markdown = _markdown(title, sections)
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(root / "report.html", page)
    write_atomic(root / "report.md", markdown)
    document = {
        "title": title,
        "setting": asdict(replace(setting, data=Path(setting.data).name)),
        "sections": [{"title": s.title, "text": list(s.text), "data": s.data} for s in sections],
        "runs": {
            name: {k: v for k, v in result.items() if k != "folder"} for name, result in results.items()
        },
    }
    write_atomic(root / "report.json", strict_json.dumps(document))
    print(markdown)


def _provenance(setting: Setting, results: Mapping[str, Result]) -> Section:
    device = torch.cuda.get_device_name() if setting.device == "cuda" else platform.machine()
    seconds = sum(result["seconds"] for result in results.values())
    facts = {
        "Images": f"{Path(setting.data).name}, width {setting.width}",
        "Device": device,
        "torch": torch.__version__,
        "Trainings": f"{len(results)}, {seconds:,.0f} s of process time together",
    }
    rows = [Row((name, value)) for name, value in facts.items()]
    return Section("Run", tables=[_made(["", "Value"], rows, n_text=2)], data=facts)


def _markdown(title: str, sections: Sequence[Section]) -> str:
    blocks = [f"# {escape(title)}"]
    for section in sections:
        blocks += [f"## {escape(section.title)}", *(escape(line) for line in section.text)]
        blocks += [_markdown_table(t) for t in section.tables]
        blocks += [f"{chart.alt}." for chart in section.charts]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(t: Table) -> str:
    lines = [t.head, tuple("---" if i < t.n_text else "---:" for i in range(len(t.head)))]
    for row in t.rows:
        cells = [escape(cell) for cell in row.cells]
        lines.append((f"**{cells[0]}**" if row.is_marked else cells[0], *cells[1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _made(head: Sequence[str], rows: Sequence[Row], n_text: int = 1) -> Table:
    made = table(head, rows, n_text)
    assert made is not None, "a table without rows"
    return made


def _patients_mean(images: Mapping[str, float], patients: Mapping[str, str]) -> float:
    return patient_interval(list(images.values()), [patients[image] for image in images]).mean


def _value(measured: Mapping[str, float], metric: str) -> float:
    if metric == "betti_error":
        return measured["betti0_error"] + measured["betti1_error"]
    return measured[metric]
