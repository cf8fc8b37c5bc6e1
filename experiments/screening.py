"""The experiment screening: which of sixteen settings decide how low a model ends, and whether evolution pays.

    python -m experiments screening SPARSE_DIR --train TRAIN.txt --valid VALID.txt

It is for a small model (`python -m experiments.small_model`), because it makes 96 runs a seed. `experiments.design`
chooses their settings.
"""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.design import ACTIVE, FACTORS, KINDS, SEFT, STATIC, Factor, settings_of_run, signs
from experiments.markup import bullets, measured_by, prose, table, title_of
from experiments.page import as_json, machine_told
from experiments.picture import COLOURS, PLAIN, library, save
from experiments.results import Results, key_of
from experiments.run import Inputs, machine, measure
from experiments.statistics import Estimate, estimate
from seft_cli import console
from seft_cli.output import write_file
from seft_ref import TrainSettings, settings_of
from seft_ref.files.state import settings_text

NAME = "screening"
HEADING = "Which settings decide?"
TITLE = "which of sixteen settings decide; 96 short runs a seed, for a small model"
TAKES = ("steps", "batch", "micro_batches", "length", "warmup_steps", "max_norm")
"""Settings that a command line may change for all runs; the design sets the others."""
_KEPT = ("perplexity_after", "counts", "stored", "support_final")
"""The measurements of a run that are kept; losses of every step would make the results a hundred times as long."""

CONTRASTS: dict[str, tuple[str, str | None]] = {
    STATIC: (STATIC, None),
    ACTIVE: (ACTIVE, None),
    SEFT: (SEFT, None),
    f"{ACTIVE} − {STATIC}": (ACTIVE, STATIC),
    f"{SEFT} − {ACTIVE}": (SEFT, ACTIVE),
}
"""The quantities whose effects are reported: a preset's perplexity, or that of one preset divided by another's."""


def fill(
    inputs: Inputs, settings: TrainSettings, seeds: Sequence[int], before: float, results: Results, engine: str
) -> list[dict[str, Any]]:
    """Make the runs that the results lack, seed by seed, and return the lines of all seeds."""
    shared = {name: getattr(settings, name) for name in TAKES}
    cells: dict[tuple[str, int, int], tuple[str, TrainSettings]] = {}
    for seed in seeds:
        for number, run in enumerate(signs()):
            for kind in KINDS:
                chosen = settings_of(**{**shared, **settings_of_run(kind, run), "seed": seed})
                content = {**inputs.identity(), "experiment": NAME, "settings": json.loads(settings_text(chosen))}
                cells[kind, number, seed] = (key_of(content), chosen)
    missing = {key: cell for cell, (key, _) in cells.items() if key not in results.found()}
    with console.progress("runs", len(missing)) as advance:
        for kind, number, seed in missing.values():
            key, chosen = cells[kind, number, seed]
            measured = measure(inputs, chosen, results.path.parent)
            line = {"key": key, "engine": engine, "experiment": NAME, **inputs.identity(), "perplexity_before": before}
            line |= {"date": dt.datetime.now(dt.UTC).date().isoformat(), "machine": machine(), **shared}
            results.append({**line, **{name: measured[name] for name in _KEPT}})
            advance(f"{kind} {measured['perplexity_after']:.2f}")
    finished = results.found()
    return [
        {**finished[key], "kind": kind, "run": number, "seed": seed} for (kind, number, seed), (key, _) in cells.items()
    ]


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one setting on one contrast: its high level against its low one, in per cent of perplexity."""

    factor: Factor
    contrast: str
    percent: Estimate

    @property
    def possible(self) -> bool:
        """Whether the contrast can depend on the setting at all."""
        upper, lower = CONTRASTS[self.contrast]
        if self.factor.name == "adapt":
            return SEFT in (upper, lower)
        return not (self.factor.of_events and upper == STATIC)


def log_perplexities(lines: Sequence[Mapping[str, Any]], contrast: str) -> dict[int, list[float]]:
    """Return for every seed the logarithm of a contrast, run by run of the design."""
    by_cell = {(line["kind"], line["run"], line["seed"]): math.log(line["perplexity_after"]) for line in lines}
    upper, lower = CONTRASTS[contrast]
    numbers, seeds = (sorted({cell[at] for cell in by_cell}) for at in (1, 2))
    return {
        seed: [by_cell[upper, n, seed] - (by_cell[lower, n, seed] if lower else 0) for n in numbers] for seed in seeds
    }


def effects(lines: Sequence[Mapping[str, Any]], contrast: str) -> list[Effect]:
    """Return the effect of every setting on a contrast, in the order of FACTORS."""
    by_seed = log_perplexities(lines, contrast)
    entries = []
    for factor, column in zip(FACTORS, zip(*signs(), strict=True), strict=True):
        values = tuple(
            100 * 2 * fmean(sign * log for sign, log in zip(column, of_seed, strict=True))
            for of_seed in by_seed.values()
        )
        entries.append(Effect(factor, contrast, estimate(values)))
    return entries


def runs_with(levels: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the runs of the design in which settings have these levels."""
    levels_of = [
        {factor.name: factor.level(sign) for factor, sign in zip(FACTORS, run, strict=True)} for run in signs()
    ]
    return [number for number, of in enumerate(levels_of) if levels.items() <= of.items()]


def overall(lines: Sequence[Mapping[str, Any]], contrast: str, runs: Sequence[int] | None = None) -> Estimate:
    """Return the mean of a contrast over runs of the design, in per cent; for a single preset, the mean logarithm."""
    scale = 1 if CONTRASTS[contrast][1] is None else 100
    chosen = range(len(signs())) if runs is None else runs
    return estimate(
        [scale * fmean(of_seed[n] for n in chosen) for of_seed in log_perplexities(lines, contrast).values()]
    )


WHERE: tuple[Mapping[str, Any], ...] = (
    {},
    {"initial_positions": "random"},
    {"initial_positions": "gradient"},
    {"adapt": "token-fisher"},
    {"adapt": "token-fisher", "density": 0.01},
    {"adapt": "token-fisher", "density": 0.04},
    {"adapt": "token-fisher", "grow": "gradient", "density": 0.01},
)
"""Parts of the design in which the presets are compared; `adapt` token-fisher is the choice of the preset `seft`."""

QUESTION = f"""
    Sixteen settings are tried at two levels each. The 32 runs of the design have every setting at its high level in
    half of them, so that each run tells something of all settings (a regular fraction of resolution IV). Every run is
    made with `{SEFT}`, whose slots move anywhere, with `{ACTIVE}`, whose slots move among stored weights, and with
    `{STATIC}`, whose slots stay.
"""
NOTE = """
    An effect is 100 times the mean logarithm of perplexity at the high level less that at the low one, which is about
    per cent; less is better. It is a mean over seeds ± half of the 95 % t-interval; bold ones exclude 0. An effect on
    `seft − active-only` says how much more a setting changes `seft` than `active-only`. Settings of events do nothing
    to `static`, and `adapt` nothing to `active-only`, which prunes nothing. What stands there in brackets is chance,
    and what three other settings do together, with which every effect is mixed up. Two settings may do together what
    neither does alone; this design does not show that.
"""


def write(lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str], out: Path) -> None:
    """Write page, picture and lines, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    _draw(lines, out / f"{NAME}.svg")
    # fields that are equal in all lines are written once
    first = lines[0]
    common = {name: first[name] for name in first if all(line.get(name) == first[name] for line in lines)}
    head = {"command": command, "model": model, "texts": texts, "common": common}
    rest = [{name: value for name, value in line.items() if name not in common} for line in lines]
    write_file(out / f"{NAME}.json", as_json(head, rest))
    write_file(out / f"{NAME}.md", _page(lines, command, model, texts).encode())


def write_again(data: bytes, out: Path) -> None:
    """Write page and picture again from the JSON that `write` wrote."""
    content = json.loads(data)
    lines = [{**content["common"], **line} for line in content["runs"]]
    write(lines, content["command"], content["model"], tuple(content["texts"]), out)


def told(of: Estimate, *, possible: bool = True) -> str:
    """Return an effect with its interval as text."""
    text = f"{of.mean:+.1f}" + ("" if of.half_width is None else f" ± {of.half_width:.1f}")
    if not possible:
        return f"({text})"
    return f"**{text}**" if of.excludes_zero else text


def _page(lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str]) -> str:
    first, on = lines[0], lines[0]["evaluation"]
    dates, machines = sorted({line["date"] for line in lines}), {machine_told(line["machine"]): None for line in lines}
    n_seeds = len({line["seed"] for line in lines})
    data = (
        f"{model}. {len({line['key'] for line in lines})} runs, {n_seeds} seed{'s' if n_seeds > 1 else ''}, of "
        f"{first['steps']} steps of {first['batch']} × {first['length']} tokens of `{texts[0]}`; perplexity over "
        f"{on['windows']} windows of {on['length']} tokens of `{texts[1]}`, {first['perplexity_before']:.2f} before."
    )
    every = {contrast: effects(lines, contrast) for contrast in CONTRASTS}
    rows = []
    for at, factor in enumerate(FACTORS):
        cells = (told(of[at].percent, possible=of[at].possible) for of in every.values())
        rows.append([f"`{factor.name}`", str(factor.low), str(factor.high), *cells])
    means = [f"{math.exp(overall(lines, kind).mean):.2f}" for kind in (STATIC, ACTIVE, SEFT)]
    apart = [told(overall(lines, contrast)) for contrast, (_, lower) in CONTRASTS.items() if lower]
    best = [_best(lines, kind) for kind in (STATIC, ACTIVE, SEFT)]
    levels = zip(("perplexity", *(f"`{factor.name}`" for factor in FACTORS)), *best, strict=True)
    parts = [
        f"# {title_of(command, HEADING)}",
        prose(QUESTION),
        f"![{NAME}: the effect of every setting, with intervals]({NAME}.svg)",
        "## What came out",
        bullets(_sentences(lines, every)),
        "## Effects",
        table(["setting", "low", "high", *CONTRASTS], [["mean of all runs", "", "", *means, *apart], *rows], 3),
        prose(NOTE),
        "## The presets, where some settings are as they are",
        table(["runs with", "runs", *(c for c, (_, lower) in CONTRASTS.items() if lower)], _apart(lines)),
        "## The lowest run of the design",
        table(["", STATIC, ACTIVE, SEFT], [list(row) for row in levels]),
        "## How it was measured",
        measured_by(command, NAME),
        prose(f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {'; and '.join(machines)}."),
        prose(data),
    ]
    return "\n\n".join(parts) + "\n"


def _apart(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of a table that compares the presets in the parts of the design that WHERE names."""
    contrasts = [contrast for contrast, (_, lower) in CONTRASTS.items() if lower]
    rows = []
    for levels in WHERE:
        runs = runs_with(levels)
        where = ", ".join(f"`{name}` {level}" for name, level in levels.items()) or "any"
        rows.append([where, str(len(runs)), *(told(overall(lines, c, runs)) for c in contrasts)])
    return rows


def _best(lines: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Return the least mean perplexity of a preset over the runs of the design, and the levels of that run."""
    means = [fmean(of_run) for of_run in zip(*log_perplexities(lines, kind).values(), strict=True)]
    number = min(range(len(means)), key=means.__getitem__)
    chosen = settings_of_run(kind, signs()[number])
    return [f"{math.exp(means[number]):.2f}", *(str(chosen.get(factor.name, "")) for factor in FACTORS)]


def _sentences(lines: Sequence[Mapping[str, Any]], every: Mapping[str, Sequence[Effect]]) -> list[str]:
    """Return the findings as sentences, from the numbers alone."""
    sentences = []
    for contrast, (upper, lower) in CONTRASTS.items():
        if lower:
            of = overall(lines, contrast)
            verdict = "" if of.excludes_zero else ", and the interval includes 0"
            sentences.append(f"Over the whole design `{upper}` ends {told(of)} % from `{lower}`{verdict}.")
    sentences += [f"What decides in `{kind}`: {_largest(every[kind])}." for kind in (STATIC, ACTIVE, SEFT)]
    apart = _largest(every[f"{SEFT} − {ACTIVE}"])
    return [*sentences, f"What changes `{SEFT}` more than `{ACTIVE}`: {apart}."]


def _largest(of: Sequence[Effect]) -> str:
    """Return the settings whose interval excludes 0, the largest effect first."""
    sure = sorted((e for e in of if e.possible and e.percent.excludes_zero), key=lambda e: -abs(e.percent.mean))
    if not sure:
        return "no setting whose interval excludes 0"
    return ", ".join(f"`{e.factor.name}` {e.factor.high} ({e.percent.mean:+.1f} %)" for e in sure)


def _draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture as SVG: the effects of all settings on both presets that have events, and on their ratio."""
    mpl = library()
    from matplotlib import pyplot as plt

    shown = (ACTIVE, SEFT, f"{SEFT} − {ACTIVE}")
    with mpl.rc_context(PLAIN):
        figure, axes = plt.subplots(1, 2, figsize=(9, 6), layout="constrained", sharey=True)
        for contrast, colour in zip(shown, COLOURS, strict=False):
            panel = axes[int(contrast == shown[-1])]
            shift = 0.15 if contrast == SEFT else -0.15 if contrast == ACTIVE else 0
            for at, effect in enumerate(effects(lines, contrast)):
                if effect.possible:
                    of = effect.percent
                    panel.errorbar(of.mean, at + shift, xerr=of.half_width, fmt="D", color=colour, ms=4, capsize=3)
            panel.plot([], [], "D", color=colour, label=contrast)
        for panel in axes:
            panel.axvline(0, color="#888888", linewidth=0.7, linestyle=":")
            panel.set_xlabel("% of perplexity, high level against low")
            panel.legend(frameon=False)
        axes[0].set_yticks(range(len(FACTORS)), [f"{f.name}: {f.low} to {f.high}" for f in FACTORS])
        axes[0].set_ylim(len(FACTORS) - 0.5, -0.5)
        save(figure, path)
