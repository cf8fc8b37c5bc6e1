"""The result page of an experiment; it depends on its runs and its command line, and on nothing else."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from experiments import task_table
from experiments.markup import bullets, measured_by, prose, table, title_of
from experiments.run import COUNTS, minutes_of, seconds_of
from experiments.statistics import Estimate, estimate, paired, paired_percent, percent_told
from experiments.table import Experiment, Row

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """All runs of an experiment, and the command, model and texts that they come from."""

    name: str
    experiment: Experiment
    runs: Mapping[str, Mapping[int, Run]]
    """arm -> seed -> run"""
    command: str
    model: str
    texts: tuple[str, str]

    def json(self) -> bytes:
        """Return the report as JSON, which `Report.of` reads back."""
        # name the arm anew, because the run may come from an experiment that named it otherwise
        named = [{**run, "arm": arm} for arm, runs in self.runs.items() for _, run in sorted(runs.items())]
        return as_json({"command": self.command, "model": self.model, "texts": self.texts}, named)

    @classmethod
    def of(cls, name: str, experiment: Experiment, data: bytes) -> "Report":
        """Return the report from the bytes that `json` returned."""
        content = json.loads(data)
        runs: dict[str, dict[int, Run]] = {}
        for run in content["runs"]:
            runs.setdefault(run["arm"], {})[run["seed"]] = run
        return cls(name, experiment, runs, content["command"], content["model"], tuple(content["texts"]))

    def rows(self) -> list[Row]:
        """Return the rows that were run, the reference first."""
        return [row for row in self.experiment.rows if row.arm in self.runs]

    def labels(self) -> dict[str, str]:
        """Return arm -> label; for an arm with two rows, without the part after the comma, which names their moment."""
        rows = self.rows()
        several = {arm for arm, n in Counter(row.arm for row in rows).items() if n > 1}
        return {row.arm: row.label.split(",")[0] if row.arm in several else row.label for row in rows}

    def values(self, row: Row, what: Callable[[Run, Row], float]) -> dict[int, float]:
        """Return for every seed the number that `what` takes from the run of a row."""
        return {seed: what(run, row) for seed, run in sorted(self.runs[row.arm].items())}

    def every_run(self) -> list[Run]:
        """Return the runs, arm by arm."""
        return [run for of_arm in self.runs.values() for _, run in sorted(of_arm.items())]


def as_json(told: Mapping[str, Any], runs: Sequence[Run]) -> bytes:
    """Return JSON with the fields of `told` and with the runs, one a line."""
    lines = ",\n".join(json.dumps(run, sort_keys=True) for run in runs)
    return f'{json.dumps(told)[:-1]}, "runs": [\n{lines}\n]}}\n'.encode()


def perplexity(run: Run, row: Row) -> float:
    """Return the perplexity of a run at the moment of the row: at the end, or before the last pass."""
    before = run["perplexity_before_last_pass"]
    return before if row.before_last_pass and before is not None else run["perplexity_after"]


def support(run: Run, row: Row) -> float:
    """Return the stored weights at the moment of the row, as a multiple of those at load."""
    return run["support_before_last_pass" if row.before_last_pass else "support_final"] / run["stored"]


NOTE_RESULTS = """
    Mean over seeds ± half of the 95 % t-interval; for seconds the mean, for memory the largest. *Support* is the number
    of stored weights of the target matrices as a multiple of that at load: the largest after any event, and at the end.
    *Overlap* is the share of the weights stored at load that are still stored at the end. *Seconds an event* is what a
    step with an event takes longer than one without; both are medians of a run.
"""
NOTE_DIFFERENCES = """
    Perplexity of the row less that of the reference with the same seed, which fixes the order of the text; the
    pruned model is the same in all runs. *In %* is by how much its geometric mean over seeds is above that of the
    reference, ± half of the interval. The intervals are not corrected for the number of comparisons, and hold for
    this model, this text and these settings.
"""


def markdown(report: Report) -> str:
    """Return the page as Markdown."""
    experiment = report.experiment
    parts = [
        f"# {title_of(report.command, experiment.title)}",
        prose(arms_told(report.command) or experiment.asked(report.runs)),
        prose(f"In short: {in_short(report)}"),
        f"![{report.name}: perplexity of every run, differences, and the steps]({report.name}.svg)",
        "## What came out",
        bullets(sentences(report)),
        "## For whoever chooses settings",
        bullets(advice(report)),
        "## Results",
        _results(report),
        prose(NOTE_RESULTS),
        *task_table.section(report.rows(), report.runs),
        "What the events of a run changed, mean over seeds:",
        _counts(report),
        "## Differences, paired by seed",
        _differences(report),
        prose(NOTE_DIFFERENCES),
        "## What one would expect",
        prose(experiment.expected),
        *(("## What was found before", prose(experiment.before)) if experiment.before else ()),
        "## How it was measured",
        measured_by(report.command, report.name),
        *map(prose, head(report)),
        "## Settings",
        *settings_tables(report),
        "## Every run",
        _every_run(report),
    ]
    return "\n\n".join(parts) + "\n"


def head(report: Report) -> list[str]:
    """Return the paragraphs on date, machine, model and texts, and on mixed versions of the engine."""
    runs = report.every_run()
    dates = sorted({run["date"] for run in runs})
    machines = {machine_told(run["machine"]): None for run in runs}
    first, n_seeds = runs[0], len({run["seed"] for run in runs})
    evaluation, tokens = first["evaluation"], first["tokens"]
    train, valid = report.texts
    windows = f"{evaluation['windows']} windows of {evaluation['length']} tokens of"
    predicted = "the answers of" if valid.endswith(".jsonl") else windows
    measured = (
        f"Trained on `{train}` ({tokens['train']:,} tokens); perplexity over {predicted} `{valid}` "
        f"({tokens['valid']:,} tokens), "
        f"{first['perplexity_before']:.2f} before training."
    )
    paragraphs = [
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {'; and '.join(machines)}.",
        f"{report.model}. {n_seeds} seed{'s' if n_seeds > 1 else ''} an arm. {measured}",
    ]
    by_engine: dict[str, dict[str, list[str]]] = {}
    for arm, label in report.labels().items():
        for seed, run in sorted(report.runs[arm].items()):
            by_engine.setdefault(run["engine"], {}).setdefault(label, []).append(str(seed))
    if len(by_engine) > 1:
        listed = "; ".join(
            ", ".join(f"`{label}` {' '.join(seeds)}" for label, seeds in labels.items())
            for labels in by_engine.values()
        )
        paragraphs.append(
            f"{len(by_engine)} versions of the engine made these runs, and may differ in their numbers. Arms and seeds "
            f"of each: {listed}."
        )
    return paragraphs


def machine_told(of: Mapping[str, Any]) -> str:
    """Return the description of a machine in words."""
    return f"{of['cpu']}, {of['cores']} cores, Python {of['python']}, NumPy {of['numpy']}, numba {of['numba']}"


def with_interval(of: Estimate, digits: int) -> str:
    """Return a mean and half of its interval as text."""
    mean = f"{of.mean:,.{digits}f}"
    return mean if of.half_width is None else f"{mean} ± {of.half_width:,.{digits}f}"


def _results(report: Report) -> str:
    headings = ("perplexity", "largest support", "support", "overlap", "seconds a step", "seconds an event", "peak GiB")
    # runs from before 2026-11-28 lack the size of the final model's file
    told_bytes = all("bytes" in run for of_arm in report.runs.values() for run in of_arm.values())
    rows = []
    for row in report.rows():
        runs = report.runs[row.arm].values()
        steps, events = zip(*(seconds_of(run) for run in runs), strict=True)
        of_events = [seconds for seconds in events if seconds is not None]
        cells = [
            with_interval(estimate([*report.values(row, perplexity).values()]), 2),
            with_interval(estimate([run["support_max"] / run["stored"] for run in runs]), 4),
            with_interval(estimate([*report.values(row, support).values()]), 4),
            "" if row.before_last_pass else with_interval(estimate([run["overlap"] for run in runs]), 4),
            f"{fmean(steps):.2f}",
            f"{fmean(of_events):.2f}" if of_events else "",
            f"{max(run['peak_memory_bytes'] for run in runs) / 2**30:.2f}",
            *([f"{fmean([run['bytes'] for run in runs]) / 1e6:.1f}"] if told_bytes else []),
        ]
        rows.append([row.label, *cells])
    return table(("arm", *headings, *(["MB of the file"] if told_bytes else [])), rows)


def _counts(report: Report) -> str:
    rows = []
    for arm, label in report.labels().items():
        runs = report.runs[arm]
        means = [sum(run["counts"][name] for run in runs.values()) / len(runs) for name in COUNTS]
        events = max(len(run["events"]) for run in runs.values())
        rows.append([label, str(events), *(f"{mean:,.0f}" for mean in means)])
    headings = ["arm", "events", *("of them reactivated" if name == "reactivated" else name for name in COUNTS)]
    return table(headings, rows)


@dataclass(frozen=True, slots=True)
class Difference:
    """The perplexity of a row less that of the row that it is compared with, paired by seed."""

    row: Row
    reference: Row
    perplexity: Estimate
    percent: Estimate
    """the difference of the geometric means over seeds, in per cent of that of the reference"""


def differences(report: Report) -> list[Difference]:
    """Return the difference of each row from the row that it names, or else from the first row."""
    first, *_ = rows = report.rows()
    entries = []
    for row in rows:
        reference = next((other for other in rows if other.label == row.against), first)
        if row is reference or (row.against is None and row is first):
            continue
        values, of_reference = (report.values(one, perplexity) for one in (row, reference))
        both = values, of_reference
        entries.append(Difference(row, reference, paired(*both), paired_percent(*both)))
    return entries


def _differences(report: Report) -> str:
    rows = []
    for d in differences(report):
        of = d.perplexity
        ends = ["", ""] if of.half_width is None else [f"{of.low:+,.2f}", f"{of.high:+,.2f}"]
        verdict = "one seed, no interval" if of.half_width is None else "yes" if of.excludes_zero else "no"
        name = f"{d.row.label} − {d.reference.label}"
        rows.append([name, f"{of.mean:+,.2f}", *ends, percent_told(d.percent), str(of.n), verdict])
    return table(["difference", "mean", "from", "to", "in %", "seeds", "excludes 0"], rows)


def sentences(report: Report) -> list[str]:
    """Return the findings in sentences that claim no more than the intervals do."""
    lines = [_sentence(d.row.label, d.reference.label, d.perplexity) for d in differences(report)]
    if report.experiment.shows_density:
        for arm, label in report.labels().items():
            largest = max(run["support_max"] / run["stored"] for run in report.runs[arm].values())
            final = max(run["support_final"] / run["stored"] for run in report.runs[arm].values())
            lines.append(
                f"{label}: the support reached {largest:.4f} times the stored weights at load during the run, and "
                f"{final:.4f} at the end (the largest of all seeds)."
            )
    return lines


def advice(report: Report) -> list[str]:
    """Return for each group of compared rows a paragraph on which row to choose, as far as the runs show."""
    groups: dict[str | None, list[Row]] = {}
    for row in report.rows():
        if not row.before_last_pass:
            groups.setdefault(row.against, []).append(row)
    return [_advice(report, rows) for rows in groups.values() if len(rows) > 1]


def arms_told(command: str) -> str:
    """Return a sentence with the choices of each arm of a command line, empty if it names no arms."""
    arms = [word.partition(":") for option, word in pairwise(shlex.split(command)) if option == "--arm"]
    told = [f"*{label}* is {', '.join(f'`{one.strip()}`' for one in choices.split(','))}" for label, _, choices in arms]
    return f"{'; '.join(told)}." if told else ""


def in_short(report: Report) -> str:
    """Return for each group of compared rows which one ended lowest, and which others may be as good."""
    groups = [one.partition(" Choose among them")[0] for one in advice(report)]
    if len(groups) == 1:
        return groups[0]
    # only the first sentence of each group, because the page shows the others below
    return " ".join(f"{one.partition('. ')[0]}." for one in groups) or "one arm was run."


def _advice(report: Report, rows: Sequence[Row]) -> str:
    """Return which row ended lowest, which others may be as good, and how many minutes those took."""
    values = {row.label: report.values(row, perplexity) for row in rows}
    best = min(values, key=lambda label: fmean(values[label].values()))
    text = f"`{best}` ended lowest, at {fmean(values[best].values()):,.2f} on average."
    if len(values[best]) == 1:
        return f"{text} With one run each this is no ground for a choice."
    behind: dict[str, list[str]] = {}
    """arm -> arms that ended higher, with an interval that excludes 0; each is listed once"""
    alike = list(values)
    for other in sorted(values, key=lambda label: fmean(values[label].values())):
        found = [x for x in alike if (d := paired(values[x], values[other])).excludes_zero and d.mean > 0]
        behind |= {other: found} if found else {}
        alike = [label for label in alike if label not in found]
    for other, labels in behind.items():
        text += f" `{other}` ended below {_listed(labels)}, and the interval excludes 0."
    if len(alike) == 1:
        return text
    minutes = {row.label: fmean(map(minutes_of, report.runs[row.arm].values())) for row in rows if row.label in alike}
    text += f" These seeds do not tell {_listed([label for label in alike if label != best])} from it."
    took = ", ".join(f"`{label}` {n:.1f}" for label, n in minutes.items())
    return f"{text} Choose among them by what else you need. Minutes a run, with whatever ran beside: {took}."


def _listed(labels: Sequence[str]) -> str:
    *others, last = (f"`{label}`" for label in labels)
    return f"{', '.join(others)} and {last}" if others else last


def _sentence(label: str, reference: str, of: Estimate) -> str:
    start = f"{label} less {reference}: {of.mean:+,.2f} in perplexity"
    if of.half_width is None:
        return f"{start} with one seed. One run each says nothing about the spread."
    start += f" (95 % interval {of.low:+,.2f} to {of.high:+,.2f}, {of.n} seeds)."
    if not of.excludes_zero:
        return f"{start} The interval includes 0: these runs do not tell the two apart."
    word = "higher, that is worse," if of.mean > 0 else "lower, that is better,"
    return f"{start} The interval excludes 0: in these runs {label} ended {word} than {reference} on average."


def settings_tables(report: Report) -> list[str]:
    """Return a table of the settings that all arms share, and one of the settings that differ."""
    each = {arm: _flat(next(iter(runs.values()))["settings"]) for arm, runs in report.runs.items()}
    first = next(iter(each.values()))
    names = [name for name in dict.fromkeys(name for of in each.values() for name in of) if name != "seed"]
    apart = [name for name in names if any(of.get(name) != first.get(name) for of in each.values())]
    shared = [[f"`{name}`", _text(first.get(name))] for name in names if name not in apart]
    arms = [[label, *(_text(each[arm].get(name)) for name in apart)] for arm, label in report.labels().items()]
    return [
        table(["the same in all arms", ""], shared),
        table(["arm", *(f"`{name}`" for name in apart)], arms),
    ]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flattened: dict[str, Any] = {}
    for name, value in settings.items():
        flattened |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return flattened


def _text(value: Any) -> str:
    return "not given" if value is None else str(value)


def _every_run(report: Report) -> str:
    headings = [
        "arm",
        "seed",
        "perplexity",
        "before the last pass",
        "loss of the last step",
        "largest support",
        "support",
        "overlap",
    ]
    rows = []
    for arm, label in report.labels().items():
        for seed, run in sorted(report.runs[arm].items()):
            before = run["perplexity_before_last_pass"]
            rows.append(
                [
                    label,
                    str(seed),
                    f"{run['perplexity_after']:.2f}",
                    "" if before is None else f"{before:.2f}",
                    f"{run['losses'][-1]:.4f}",
                    *(f"{run[name]:,}" for name in ("support_max", "support_final")),
                    f"{run['overlap']:.4f}",
                ]
            )
    return table(headings, rows)
