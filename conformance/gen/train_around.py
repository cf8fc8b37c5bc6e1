"""Cases around a run: dtypes, final weights, warnings, shares of ranks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.answers.files_content import raw_array
from conformance.gen.numbers import Area, Array, ids, reals
from conformance.oracle import files_names, train_around
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.select_pools import RefusedError


def answered(
    area: Area,
    name: str,
    op: str,
    clauses: str,
    purpose: str,
    inputs: dict[str, Any],
    answer: Callable[[], dict[str, Any]],
    **more: Any,
) -> None:
    """Add a case with the oracle's answer, or with the clause under which it refuses."""
    try:
        area.add(name, op, clauses, purpose, inputs, answer(), **more)
    except RefusedError as error:
        clause = str(error).split(":", 1)[0]
        area.add(f"refuse-{name}", op, clauses, purpose, inputs, refused=clause, **more)


def telling(output: str, of: Callable[..., Any], *arguments: Any) -> Callable[[], dict[str, Any]]:
    """Return a function without arguments that computes one output."""
    return lambda: {output: of(*arguments)}


def dtypes() -> Area:
    """Return cases of the compute dtype (CKP-001)."""
    area = Area("compute-dtype", "a table")
    for stored in ("BF16", "F16", "F32", "F64", "I32", "F8_E4M3", "BOOL"):
        for requested in (None, "float32", "float64", "bfloat16"):
            inputs = {"stored": stored} | ({} if requested is None else {"asked": requested})
            answered(
                area,
                f"{stored}-{requested or 'own'}",
                "checkpoint.dtype",
                "CKP-001",
                "16 bits computed in 16 bits, float64 narrowed, or another dtype than the one that is asked for",
                inputs,
                telling("dtype", train_around.compute_dtype, stored, requested),
            )
    return area


WEIGHTS: dict[str, tuple[list[float], str]] = {
    "plain": ([1.5, -2.0, 0.0, -0.0, 0.1015625], "values that need no rounding, and both zeros"),
    "ties": (
        [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20],
        "ties away from zero, or cut",
    ),
    "small": (
        [2.0**-24, 2.0**-25, 3 * 2.0**-26, 2.0**-14 - 2.0**-25, 2.0**-126, 2.0**-133, 2.0**-134, 1e-30],
        "subnormal numbers flushed, or a weight that rounds to zero dropped",
    ),
    "large": ([65504.0, 65519.0, -65519.0, 3.3e38], "numbers below the edge refused"),
}

_TOO_LARGE = {"F16": [1.0, 65520.0], "BF16": [3.4e38, 2.0]}

_ONCE = [
    1 + 2.0**-8 + 2.0**-40,
    1 + 3 * 2.0**-8 - 2.0**-40,
    1 + 2.0**-11 + 2.0**-40,
    1 + 2.0**-24 + 2.0**-50,
    -1 - 2.0**-8 - 2.0**-45,
    2.0**-25 + 2.0**-70,
]
"""Numbers next to a tie. Rounding them to binary32 first puts them on the tie."""


def finals() -> Area:
    """Return cases of final weights in the dtype of a file (CKP-004)."""
    area = Area("final", "exact fractions")
    for dtype in train_around.FORMATS:
        for name, (values, purpose) in WEIGHTS.items():
            finite = [float(np.float32(x)) for x in values if abs(x) < (65520 if dtype == "F16" else 3.35e38)]
            inputs = {"values": reals(finite), "dtype": dtype}
            answer = {"bits": raw_array(train_around.final(finite, dtype))}
            area.add(f"{name}-{dtype}", "checkpoint.final", "CKP-004", purpose, inputs, answer)
        once = {"bits": raw_array(train_around.final(_ONCE, dtype))}
        area.add(
            f"once-{dtype}",
            "checkpoint.final",
            "CKP-004",
            "rounded by way of another dtype",
            {"values": reals(_ONCE), "dtype": dtype},
            once,
            dtypes=("float64",),
        )
    for dtype, values in _TOO_LARGE.items():
        area.add(
            f"refuse-large-{dtype}",
            "checkpoint.final",
            "CKP-004",
            "a weight that became infinite",
            {"values": reals(float(np.float32(x)) for x in values), "dtype": dtype},
            refused="CKP-004",
        )
    area.add(
        "refuse-large-F32",
        "checkpoint.final",
        "CKP-004",
        "a weight that became infinite",
        {"values": reals([1.0, 1e39]), "dtype": "F32"},
        refused="CKP-004",
        dtypes=("float64",),
    )
    for name, x in (("nan", np.nan), ("infinite", -np.inf)):
        area.add(
            f"refuse-{name}",
            "checkpoint.final",
            "CKP-004",
            "a broken run that is saved",
            {"values": reals([0.5, x]), "dtype": "F32"},
            refused="CKP-004",
        )
    return area


def spread(name: str, t: Tensor, raw: bytes, limit: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs of `file.expand`.

    Raises:
        RefusedError: FMT-098, the dense array exceeds the limit.
    """
    at = None if t.support is None else [r * t.shape[-1] + c for r, c in t.support]
    inputs = {"raw": raw_array(raw), "name": name} | ({} if limit is None else {"limit": limit})
    return inputs, {"bits": raw_array(files_names.expanded(t.dtype, t.shape, at, t.bits, BITS[t.dtype], limit))}


def warned(losses: list[float], events: list[int], support: list[int], budget: int, stored: int | None) -> Any:
    """Return inputs and outputs of `run.warnings`."""
    inputs: dict[str, Any] = {"losses": reals(losses), "events": ids(events), "support": ids(support), "budget": budget}
    inputs |= {} if stored is None else {"stored": stored}
    warnings = train_around.warnings(losses, events, support, budget, stored)
    return inputs, {"steps": ids(step for step, _ in warnings), "names": [name for _, name in warnings]}


def run_warnings() -> Area:
    """Return cases of warnings (TRN-011)."""
    area = Area("warnings", "a loop over all steps")
    flat, rising = [2.0] * 12, [2.0, 2.125, 2.0, 1.875, 2.0]
    for name, losses, events, support, stored, purpose in (
        ("quiet", flat, [5], [100], 100, "a budget that is met"),
        ("above", flat, [3, 6, 9], [101, 100, 102], None, "an event that leaves too much passed over"),
        ("denser", flat, [], [], 101, "the end of a run passed over"),
        ("jump", [*rising, 2.625, 2.0], [5], [100], None, "a jump passed over, or told a step early"),
        ("within-spread", [*rising, 2.375, 2.0], [5], [100], None, "a jump no larger than the spread"),
        ("within-5-percent", [2.0] * 5 + [2.09375], [5], [100], None, "a jump of less than 5 %"),
        ("early", [2.0] * 4 + [3.0], [4], [100], None, "an event with fewer than five steps up to it"),
        ("five", [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.75], [6], [100], None, "steps before the fifth counted"),
        ("last", [2.0] * 5, [5], [100], None, "a loss behind the last step"),
        (
            "divergence",
            [2.0] * 10 + [4.0] * 10 + [1.0] * 10 + [2.0] * 9,
            [],
            [],
            None,
            "told at every step, or once for a whole run",
        ),
        ("twenty-percent", [2.0] * 10 + [4.0, 4.0], [], [], None, "a rise of 20 %, and of no more"),
        ("all", [2.0] * 10 + [4.0] * 6, [10], [104], 103, "one warning for several"),
        ("early-each", [2.0, 3.0, 4.5, 7.0, 11.0, 11.0], [1, 2, 3, 4], [100] * 4, None, "events before the fifth step"),
        ("five-percent", [20.0] * 5 + [21.0], [5], [100], None, "a rise of 5 %, and of no more"),
        ("six-percent", [20.0] * 5 + [21.125], [5], [100], None, "a rise of less than 6 %"),
        ("of-the-largest", [*[20.0] * 4, 19.5, 20.984375], [5], [100], None, "5 % of another than the largest"),
        ("exactly-20", [5.0] * 10 + [6.0] * 10, [], [], None, "a rise of 20 %, and of no more"),
        ("above-20", [5.0] * 10 + [6.03125] * 10, [], [], None, "a rise of less than 21 %, or 20 % of the mean itself"),
        ("as-low", ([2.0] * 10 + [4.0] * 10) * 2, [], [], None, "a mean as low as the lowest taken for a new one"),
        ("last-jump", [2.0] * 5 + [4.0], [5, 6], [100, 100], None, "an event behind which no step comes judged"),
    ):
        inputs, answer = warned(losses, events, support, 100, stored)
        area.add(name, "run.warnings", "TRN-011", purpose, inputs, answer)
    return area


def shared(rows: int, n: int) -> Array:
    """Return the first row of each of n ranks, as the operation's output."""
    return ids(train_around.shares(rows, n))


def ranks() -> Area:
    """Return cases of rows shared by ranks (TRN-013)."""
    area = Area("ranks", "integers")
    for rows, n in ((1, 1), (4, 2), (5, 2), (7, 3), (8, 3), (16, 16), (10, 4), (3, 4), (1, 2), (2**31 + 7, 3)):
        answered(
            area,
            f"{rows}-{n}",
            "ranks.rows",
            "TRN-013",
            "the rest on one rank, or a rank without rows",
            {"rows": rows, "ranks": n},
            telling("first", shared, rows, n),
        )
    return area


AREAS = (
    dtypes,
    finals,
    run_warnings,
    ranks,
)
