"""Properties around a run: dtypes, final weights, warnings, shares of ranks, texts."""

import json
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.oracle import train_around
from conformance.oracle.files import BITS
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of


@property_of(
    "checkpoint.final",
    "CKP-004",
    "checkpoints",
    "checkpoint.final",
    sees=("a tie", "a subnormal number", "a zero with a sign", "a value that does not fit", "NaN or infinity"),
)
def _final(d: Draw, t: Trial) -> None:
    """Final weights are rounded once to nearest, ties to even, in the dtype of the file."""
    dtype = d.choice(tuple(train_around.FORMATS))
    digits, top, _ = train_around.FORMATS[dtype]
    values = []
    for _ in range(d.integer(1, 12)):
        # x is a number of the dtype or a tie between two of them, or lies just beside one
        exponent = d.choice((0, -3, 1 - top - d.integer(0, min(digits, 30)), min(top, 100) - d.integer(0, 3)))
        half, beside = d.integer(0, 1), d.choice((0, 0, -1, 1))
        if abs(exponent) < 900:
            n = d.integer(0, 2 ** min(digits, 20) - 1)
            x = (
                1 + n * 2.0 ** (1 - digits) + half * 2.0**-digits + beside * 2.0 ** -min(50, digits + 20)
            ) * 2.0**exponent
            values.append(float(np.float32(x)) if t.dtype == "float32" else x)
            t.saw("a tie", half and not beside)
            t.saw("a subnormal number", exponent < 1 - top)
    if d.flag():
        values.append(-0.0)
        t.saw("a zero with a sign")
    bad = d.integer(0, 9)
    if bad == 0:
        values.append(d.choice((float("nan"), float("inf"), float("-inf"))))
        t.saw("NaN or infinity")
    elif bad == 1 and dtype != "F64" and (dtype != "F32" or t.dtype == "float64"):
        values.append(d.choice((1, -1)) * 2.0 ** (top + 1) if dtype == "F16" or t.dtype == "float64" else 3.4e38)
        t.saw("a value that does not fit")
    values = [x for x in values if t.dtype == "float64" or not np.isfinite(x) or abs(x) < 3.403e38]
    values = [float(np.float32(x)) if t.dtype == "float32" else x for x in values]
    inputs = {"values": reals(values), "dtype": dtype}
    t.case("checkpoint.final", inputs, dtypes=(t.dtype,))


@property_of(
    "checkpoint.texts",
    "CKP-001 GEN-008 PRN-008 FMT-112",
    "checkpoints",
    "checkpoint.dtype generate.stops prune.record file.name",
    sees=(
        "a refused dtype",
        "refused stop tokens",
        "a refused record",
        "a record with a sparsity and a pattern",
        "a refused name",
        "two files",
    ),
)
def _texts(d: Draw, t: Trial) -> None:
    """Dtypes, stop tokens, records and names follow the tables of their clauses."""
    stored, requested = d.choice(tuple(BITS)[1:]), d.choice((None, "float32", "float64", "float16"))
    inputs: dict[str, Any] = {"stored": stored} | ({} if requested is None else {"asked": requested})
    _asked(t, "a refused dtype", "checkpoint.dtype", inputs)

    def value() -> Any:
        n = d.integer(0, 50000)
        return d.choice((n, [n, n + 1], None, [n], [], str(n), -n - 1, [n, None], False, n, [n, 0, 3]))

    config = json.dumps({"model_type": "llama", "eos_token_id": value()})
    generation = json.dumps({"eos_token_id": value()}) if d.flag() else None
    t.saw("two files", generation)
    inputs = {"config": config} | ({} if generation is None else {"generation": generation})
    _asked(t, "refused stop tokens", "generate.stops", inputs)
    n, m = d.integer(0, 9), d.integer(1, 12)
    pattern = d.choice((f"{n}:{m}", None, f"{n}:{m}", f"{n}-{m}", n, [n, m], f"{n}:{m}:1", f" {n}:{m}"))
    sparsity = d.choice((None, None, 0.5))
    t.saw("a record with a sparsity and a pattern", sparsity and isinstance(pattern, str) and f"{n}:{m}" == pattern)
    record = json.dumps({"method": "wanda", "sparsity": sparsity, "pattern": pattern, "removed": n, "of": m})
    record = record[:-1] if d.flag(8) else record
    _asked(t, "a refused record", "prune.record", {"record": record})
    stem = d.choice(("model", "Model", "adapter_model", "pytorch_model", "my_model", "models"))
    middle = d.choice(("", f"-{n:05d}-of-{m:05d}", f"-{n}-of-{m}", f"-{n}of{m}", f"-{n}", "-a-of-b", ".sparse"))
    name = stem + middle + d.choice((".safetensors", ".SAFETENSORS", ".safetensors", ".bin", ""))
    _asked(t, "a refused name", "file.name", {"name": name})


def _asked(t: Trial, what: str, op: str, inputs: dict[str, Any]) -> None:
    """Ask a case, and count a refusal as `what`."""
    t.saw(what, answer(op, inputs).refused)
    t.case(op, inputs)


_WARNINGS = ("support-above-target", "loss-jump-after-growth", "divergence", "denser-at-end")


@property_of("run.warnings", "TRN-011", "runs", "run.warnings", sees=(*_WARNINGS, "no warning"))
def _run_warnings(d: Draw, t: Trial) -> None:
    """A run gives each warning at the step at which its condition becomes true."""
    # losses are eighths, because sums of ten of them are exact
    losses = [2 + x / 8 for x in d.integers(d.integer(1, 40), 0, d.choice((1, 4, 40)))]
    if d.flag(3):
        middle = len(losses) // 2
        losses = losses[:middle] + [2 * x for x in losses[middle:]]
    every = d.integer(2, 9)
    events = list(range(every, len(losses) + 1, every))
    support = [100 + d.choice((0, 0, 0, 1, -3)) for _ in events]
    inputs: dict[str, Any] = {"losses": reals(losses), "events": ids(events), "support": ids(support), "budget": 100}
    stored = d.choice((None, 100, 101, 90))
    inputs |= {} if stored is None else {"stored": stored}
    names = answer("run.warnings", inputs).outputs["names"]
    for name in names:
        t.saw(name)
    t.saw("no warning", not names)
    if not _close(losses):
        t.case("run.warnings", inputs)


def _close(losses: list[float]) -> bool:
    """Return whether rounding could change a comparison of the clause."""
    means = [sum(losses[i : i + 10]) / 10 for i in range(len(losses) - 9)]
    lowest = [min(means[: i + 1]) for i in range(len(means))]
    by_mean = any(abs(mean - 1.2 * low) < 1e-9 for mean, low in zip(means, lowest, strict=True))
    tops = [max(losses[i - 5 : i]) for i in range(5, len(losses))]
    return by_mean or any(abs(loss - 1.05 * top) < 1e-9 for loss, top in zip(losses[5:], tops, strict=True))


@property_of("ranks.rows", "TRN-013", "runs", "ranks.rows", sees=("fewer rows than ranks", "a rest", "no rest"))
def _rows(d: Draw, t: Trial) -> None:
    """The rows of a step are divided among ranks by the written formula."""
    n = d.integer(1, 20)
    rows = d.integer(1, 100)
    t.saw("a rest" if rows % n else "no rest")
    t.saw("fewer rows than ranks", rows < n)
    t.case("ranks.rows", {"rows": rows, "ranks": n})
