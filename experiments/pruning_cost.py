"""The experiment pruning-cost: how much the loss rises when an event prunes, by criterion and by amount of data.

    python -m experiments pruning-cost SPARSE_DIR --train TRAIN.txt --valid VALID.txt

It trains nothing: it prunes a share of the stored weights and evaluates. A draw is a seed of the training windows. Each
draw has one line of the results for every criterion and number of batches.
"""

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.markup import bullets, measured_by, prose, table, title_of
from experiments.page import as_json, machine_told
from experiments.picture import COLOURS, PLAIN, library, save
from experiments.results import Results, key_of
from experiments.run import Inputs, machine, perplexity_of
from experiments.statistics import Estimate, estimate
from seft_cli import console
from seft_cli.output import write_file
from seft_ref import Model, TrainSettings
from seft_ref.arrays.library import Array, to_numpy
from seft_ref.arrays.ranks import Ranks
from seft_ref.files.model import load_model
from seft_ref.kernels import KernelSet, cpu
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import AnyWindow, opened
from seft_ref.model.weights import with_matrices
from seft_ref.topology.csr import flat, from_flat
from seft_ref.train.gradients import loss_and_gradients
from seft_ref.train.loop import step_batches
from seft_ref.update.criteria import ADAPT, Chance, Known
from seft_ref.update.delta import new_delta
from seft_ref.update.rules import ON_SUPPORT, Rule
from seft_ref.update.select import selection

NAME = "pruning-cost"
HEADING = "What does the pruning of an event cost?"
TITLE = "what the pruning of an event costs, by criterion and batches; no training"
TAKES = ("batch", "micro_batches", "length")
"""Settings that a command line may change; they decide which windows of the text a draw takes."""
SHARE = 0.01
"""The share of the stored weights of every matrix that is pruned."""
BATCHES = (1, 4, 16)
"""Numbers of batches in the gradient window."""
CRITERIA: dict[str, tuple[int, ...]] = {
    "sensitivity": BATCHES,
    "absolute": BATCHES[1:],
    "fisher": BATCHES[1:],
    "token-fisher": BATCHES,
    "rank-one": BATCHES,
    "activation": (1,),
    "magnitude": (0,),
    "random": (0,),
}
"""The numbers of batches that each criterion is tried with; 0 if it uses no data. All but `rank-one` are of ADPT-005.

`absolute` and `fisher` are not tried with one batch, because there they rank as `sensitivity` does."""
_ASKED = frozenset({*ON_SUPPORT.values(), "inputs"})


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a criterion with a number of batches: the rise of the loss over draws, in nats per token."""

    criterion: str
    batches: int
    nats: Estimate
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WindowAndSquares:
    """A gradient window, and the squares of the gradient's two factors, summed over all tokens of its steps."""

    window: AnyWindow
    output_squares: Float[Array, " out"] | float = 0.0
    """Σ dy² of each row"""
    input_squares: Float[Array, " in_"] | float = 0.0
    """Σ x² of each column"""

    def fresh(self) -> "WindowAndSquares":
        """Return empty sums, to which this rank adds its micro-batches of a step."""
        return WindowAndSquares(self.window.fresh())

    def plus(self, gradient: WeightGradient, kernels: KernelSet) -> "WindowAndSquares":
        """Return the sums with one more micro-batch."""
        of_dy, of_x = ((factor * factor).sum(axis=0) for factor in (gradient.dy, gradient.x))
        window = self.window.plus(gradient, kernels)
        return WindowAndSquares(window, self.output_squares + of_dy, self.input_squares + of_x)

    def joined(self, step: "WindowAndSquares", ranks: Ranks, kernels: KernelSet) -> "WindowAndSquares":
        """Return these sums plus those of a step, which are added up over all ranks."""
        return WindowAndSquares(
            self.window.joined(step.window, ranks, kernels),
            self.output_squares + ranks.sum(step.output_squares),
            self.input_squares + ranks.sum(step.input_squares),
        )

    def rank_one(self, positions: Int[Array, " n"], n_columns: int) -> Float[Array, " n"]:
        """Return Σ dy² · Σ x² at flat positions, in the place of Σ dy² x² of `token-fisher` (GRD-008)."""
        rows, columns = divmod(positions, n_columns)
        return np.take(self.output_squares, rows) * np.take(self.input_squares, columns)


def measured(
    inputs: Inputs, settings: TrainSettings, before: float, wanted: Set[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """Yield for every wanted criterion and number of batches the perplexity after pruning by it.

    settings  batch, length and seed of the training windows
    before    perplexity of the model as it is
    """
    model = load_model(inputs.folder, cpu)
    sums = {
        name: WindowAndSquares(opened(base, from_flat(base.shape, flat(base.topology)[:0]), _ASKED))
        for name, base in model.bases.items()
    }
    for step in range(max(n for _, n in wanted) + 1):
        if step:
            sums = {name: replace(of, window=of.window.settled(cpu)) for name, of in sums.items()}
            batches = step_batches(settings, inputs.train, step, model.weights)
            sums = dict(loss_and_gradients(model.weights, model.config, batches, cpu, {}, sums).kept)
        for criterion in (name for name in CRITERIA if (name, step) in wanted):
            after = perplexity_of(_without(model, sums, criterion, settings.seed, cpu), inputs)
            yield {
                "criterion": criterion,
                "batches": step,
                "perplexity_after": after,
                "nats": math.log(after / before),
            }


def _without(
    model: Model, sums: Mapping[str, WindowAndSquares], criterion: str, seed: int, kernels: KernelSet
) -> Model:
    """Return the model without the share of weights with the smallest scores (ADPT-001, ADPT-002)."""
    packed = {}
    for number, (name, stored) in enumerate(model.bases.items()):
        base = stored.open()
        positions = flat(base.topology)
        known = Known(weight=base.values)
        if criterion == "random":
            known = Known(uniform=Chance(seed, 0).scores(number, positions, 0))
        elif criterion == "rank-one":
            known = Known(weight=base.values, tokens=sums[name].rank_one(positions, base.shape[1]))
        elif criterion != "magnitude":
            view = View(sums[name].window, base, new_delta(base.shape, positions[:0], base.values))
            (scored,) = evidence([view], Rule(adapt=criterion), None, kernels=kernels)  # type: ignore[arg-type]
            by_name = {} if scored.inputs is None else {"inputs": np.take(scored.inputs, base.topology.indices)}
            by_name |= (
                {ON_SUPPORT[criterion]: getattr(scored, ON_SUPPORT[criterion])} if criterion in ON_SUPPORT else {}
            )
            known = Known(weight=base.values, **by_name)
        scores = ADAPT["token-fisher" if criterion == "rank-one" else criterion](known)
        removed = to_numpy(selection(scores, round(SHARE * base.nnz)).indices)
        kept = np.delete(np.arange(base.nnz), removed)
        packed[name] = kernels.pack(from_flat(base.shape, positions[kept]), base.values[kept], None)
    return Model(model.config, with_matrices(model.weights, packed), {})


def costs(runs: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """Return the costs of all criteria, in the order of CRITERIA, from the lines of all draws."""
    entries = []
    for criterion, tried in CRITERIA.items():
        for n in tried:
            values = tuple(run["nats"] for run in runs if (run["criterion"], run["batches"]) == (criterion, n))
            # older results lack a criterion
            entries += [Cost(criterion, n, estimate(values), values)] if values else []
    return entries


def fill(
    inputs: Inputs, settings: TrainSettings, seeds: Sequence[int], before: float, results: Results, engine: str
) -> list[Any]:
    """Measure the draws that the results lack, and return the lines of all draws."""
    lines: list[dict[str, Any]] = []
    for seed in seeds:
        drawn = {**inputs.identity(), "batch": settings.batch, "length": settings.length, "seed": seed, "share": SHARE}
        keys = {
            (c, n): key_of({**drawn, "experiment": NAME, "criterion": c, "batches": n})
            for c in CRITERIA
            for n in CRITERIA[c]
        }
        finished = results.found()
        wanted = {cell for cell, key in keys.items() if key not in finished}
        if wanted:
            with console.progress(f"draw {seed}", len(wanted)) as advance:
                for one in measured(inputs, replace(settings, seed=seed), before, wanted):
                    line = {
                        "key": keys[one["criterion"], one["batches"]],
                        "engine": engine,
                        "experiment": NAME,
                        **drawn,
                    }
                    line |= {"perplexity_before": before, "date": dt.datetime.now(dt.UTC).date().isoformat()}
                    results.append({**line, "machine": machine(), **one})
                    advance(f"{one['criterion']} {one['nats']:+.4f}")
            finished = results.found()
        lines += [finished[key] for key in keys.values()]
    return lines


QUESTION = f"""
    An event prunes as many stored weights as come back. Which score finds those that are not missed, and from how much
    data? From every matrix {SHARE:.0%} of the stored weights are taken away at once, those with the least scores, and
    nothing is trained: the loss afterwards less that before is what they were worth. A draw takes its batches from
    other places of the text.
"""
MEANING = """
    The preset `seft` prunes by `token-fisher` of the batch of its event. That takes one sampled product more than
    `sensitivity`, no more data, and 4 bytes a stored weight while a window of several steps is open. `absolute` and
    `fisher` need a window of many steps (`--set gradient_window=...`), whose sums are as large as the matrices.
    `activation` is Wanda's score, which was made to compare weights of one row; an event compares those of a matrix.
    `rank-one` is W² · Σdy² · Σx², and no choice of `adapt`: it needs what `token-fisher` needs, and saves the sampled
    product.
"""
NOTE = """
    Nats per token, mean over draws ± half of the 95 % t-interval; more is worse. Of one batch `absolute` and `fisher`
    rank as `sensitivity` does, and `magnitude` is the same in every draw.
"""


def write(lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str], out: Path) -> None:
    """Write page, picture and lines, each whole or not at all."""
    entries = costs(lines)
    out.mkdir(parents=True, exist_ok=True)
    _draw(entries, out / f"{NAME}.svg")
    write_file(out / f"{NAME}.json", as_json({"command": command, "model": model, "texts": texts}, lines))
    write_file(out / f"{NAME}.md", _page(entries, lines, command, model, texts).encode())


def write_again(data: bytes, out: Path) -> None:
    """Write page and picture again from the JSON that `write` wrote."""
    content = json.loads(data)
    write(content["runs"], content["command"], content["model"], tuple(content["texts"]), out)


def _page(
    found: Sequence[Cost], lines: Sequence[Mapping[str, Any]], command: str, model: str, texts: tuple[str, str]
) -> str:
    first = lines[0]
    on = first["evaluation"]
    data = (
        f"{model}. Scored on `{texts[0]}` by batches of {first['batch']} × {first['length']} tokens, {found[0].nats.n} "
        f"draws; perplexity over {on['windows']} windows of {on['length']} tokens of `{texts[1]}`, "
        f"{first['perplexity_before']:.2f} before."
    )
    dates, machines = sorted({line["date"] for line in lines}), {machine_told(line["machine"]): None for line in lines}
    cells = {(cost.criterion, cost.batches): told(cost.nats) for cost in found}
    rows = [[f"`{c}`", *(cells.get((c, n), "") for n in (0, *BATCHES))] for c in CRITERIA]
    every = [[f"`{c.criterion}`", str(c.batches), *(f"{value:+.4f}" for value in c.values)] for c in found]
    parts = [
        f"# {title_of(command, HEADING)}",
        prose(QUESTION),
        f"![{NAME}: nats of every draw by criterion and batches]({NAME}.svg)",
        "## What came out",
        bullets(_sentences(found)),
        "## For whoever chooses settings",
        prose(MEANING),
        "## Nats",
        table(["criterion", "no data", *(f"{n} batch{'es' * (n > 1)}" for n in BATCHES)], rows),
        prose(NOTE),
        "## Where it was measured",
        measured_by(command, NAME),
        prose(f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {'; and '.join(machines)}."),
        prose(data),
        "## Every draw",
        table(["criterion", "batches", *(f"draw {i}" for i in range(len(found[0].values)))], every),
    ]
    return "\n\n".join(parts) + "\n"


def told(nats: Estimate) -> str:
    """Return a cost with its interval as text."""
    return f"{nats.mean:+.4f}" + ("" if nats.half_width is None else f" ± {nats.half_width:.4f}")


def _sentences(found: Sequence[Cost]) -> list[str]:
    """Return the findings as sentences, from the numbers alone."""
    with_data = [cost for cost in found if cost.batches]
    least, default = min(with_data, key=lambda c: c.nats.mean), with_data[0]
    one = [cost for cost in with_data if cost.batches == 1]
    of_one = min(one, key=lambda c: c.nats.mean)
    most = max((c for c in with_data if c.criterion == default.criterion), key=lambda c: c.batches)
    few = "batch" if least.batches == 1 else "batches"
    return [
        f"From one batch `{of_one.criterion}` costs least: {told(of_one.nats)}.",
        f"`{default.criterion}` costs {told(default.nats)} from one batch, {told(most.nats)} from {most.batches}.",
        f"Least of all costs `{least.criterion}` from {least.batches} {few}: {told(least.nats)}.",
    ]


def _draw(found: Sequence[Cost], path: Path) -> None:
    """Write the picture as SVG: a row for every criterion and number of batches, a point for every draw."""
    mpl = library()
    from matplotlib import pyplot as plt

    with mpl.rc_context(PLAIN):
        figure, axes = plt.subplots(figsize=(8, 0.32 * len(found) + 1), layout="constrained")
        names = list(CRITERIA)
        for at, cost in enumerate(found):
            colour = COLOURS[names.index(cost.criterion) % len(COLOURS)]
            axes.scatter(cost.values, [at] * len(cost.values), s=14, color=colour, alpha=0.6)
            axes.errorbar(cost.nats.mean, at, xerr=cost.nats.half_width, fmt="D", color=colour, markersize=5, capsize=4)
        labels = [
            f"{c.criterion}, {c.batches} batch{'es' * (c.batches > 1)}" if c.batches else c.criterion for c in found
        ]
        axes.set_yticks(range(len(found)), labels)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.axvline(0, color="#888888", linewidth=0.7, linestyle=":")
        axes.set_xlabel("nats per token more: draws, mean, 95 % interval")
        save(figure, path)
