"""Cases of the linear layer and of gradients of a matrix (chapters 4 and 6)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.answers import answer
from conformance.cases.case import Bound
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import select


def linear() -> Area:
    """Return cases of the linear layer and of gradients of a matrix (LYR-003, GRD-001 to GRD-004, NUM-002, NUM-003)."""
    area = Area("linear", "binary64 formula; gradients recorded, checked by complex step")
    n = Numbers(10, 3)
    for name, shape, outs, biased, exact in (
        ("lattice", (5, 7), 3, False, True),
        ("lattice-bias", (4, 9), 6, True, True),
        ("real", (6, 31), 11, False, False),
        ("real-bias", (2, 3, 17), 5, True, False),
        ("no-rows", (0, 4), 3, True, True),
        ("one", (1, 1), 1, False, False),
        ("wide", (3, 300), 2, False, False),
    ):
        draw: Callable[[Any], Array] = n.lattice if exact else n.real
        x, w, dy = draw(shape), draw((outs, shape[-1])), draw((*shape[:-1], outs))
        inputs = {"x": x, "weight": w, "bias": draw(outs) if biased else None, "dy": dy}
        made = answer("layer.linear", inputs)
        clauses = "LYR-003 GRD-001 NUM-003" if exact else "LYR-003 GRD-001 NUM-002"
        text = "a transposed backward, the bias twice, low-precision products"
        area.add(name, "layer.linear", clauses, text, inputs, dict(made.outputs), bounds=dict(made.bounds))
    _gradients(area, n)
    _long_gradients(area)
    return area


def _long_gradients(area: Area) -> None:
    """Add sums over 600 rows that are exact in 16-bit types, while their partial sums are not (PRT-011)."""
    n = Numbers(10, 4)
    dy, x = (values.reshape(-1, 1) for values in n.balanced(600))
    whole, bound = dy.T @ x, Bound(np.zeros(()), 0)
    text = "a sum kept in sixteen bits while it grows"
    inputs: dict[str, Any] = {"dy": dy, "x": x}
    area.add(
        "gradient-sums",
        "gradient.whole",
        "GRD-001 NUM-003 PRT-011",
        text,
        inputs,
        {"gradient": whole},
        bounds={"gradient": bound},
    )
    inputs = inputs | {"out": 1, "in": 1, "positions": ids([0])}
    at = {"values": whole.reshape(-1)}
    area.add("at-sums", "gradient.at", "GRD-002 NUM-003 PRT-011", text, inputs, at, bounds={"values": bound})


def _gradients(area: Area, n: Numbers) -> None:
    for name, rows, outs, ins, exact in (
        ("lattice", 6, 9, 5, True),
        ("real", 40, 8, 6, False),
        ("no-rows", 0, 3, 2, True),
    ):
        draw: Callable[[Any], Array] = n.lattice if exact else n.real
        dy, x = draw((rows, outs)), draw((rows, ins))
        whole = np.einsum("no,ni->oi", dy, x)
        gauge = np.zeros((outs, ins)) if exact else np.abs(dy).T @ np.abs(x)
        bound = {"gradient": Bound(gauge, rows)}
        text = "the gradient transposed, or only on the support"
        area.add(
            f"gradient-{name}",
            "gradient.whole",
            "GRD-001",
            text,
            {"dy": dy, "x": x},
            {"gradient": whole},
            bounds=bound,
        )
        for some in (list(range(outs * ins)), n.subset(outs * ins, outs), []):
            inputs = {"out": outs, "in": ins, "dy": dy, "x": x, "positions": ids(some)}
            at = {"values": whole.reshape(-1)[some]}
            bound = {"values": Bound(gauge.reshape(-1)[some], rows)}
            text = "values in another order than the list"
            clauses = f"GRD-002 GRD-001 {'NUM-003' if exact else 'NUM-002'}"
            area.add(f"at-{name}-{len(some)}", "gradient.at", clauses, text, inputs, at, bounds=bound)
    for name, outs, ins, steps, scope, k in (
        ("tall", 520, 5, 1, "all", 40),
        ("tall-active", 300, 4, 1, "active", 60),
        ("signed-mean", 20, 7, 2, "all", 25),
        ("few-rows", 5, 8, 4, "all", 9),
        ("all", 6, 6, 1, "all", 500),
        ("none", 6, 6, 1, "all", 0),
    ):
        size = outs * ins
        dys = [n.lattice((2, outs), 3) for _ in range(steps)]
        xs = [n.lattice((2, ins), 3) for _ in range(steps)]
        if steps == 2:  # the second step cancels the first in half of the columns
            xs[1], dys[1] = xs[0].copy(), -dys[0]
            xs[1][:, : ins // 2] += 1
        mean = sum(np.einsum("no,ni->oi", d, x) for d, x in zip(dys, xs, strict=True)).reshape(-1) / steps
        base, eta = n.subset(size, size // 2), n.subset(size, min(15, size // 4))
        slots, stored = set(eta), set(base)
        open_to = [p for p in range(size) if p not in slots and (scope == "all" or p in stored)]
        chosen = select.largest([abs(float(mean[p])) for p in open_to], open_to, min(k, len(open_to)))
        inputs = {"out": outs, "in": ins, "dy": dys, "x": xs, "steps": steps}
        inputs |= {"base": ids(base), "delta": ids(eta), "n": k, "scope": scope}
        outputs = {"candidates": ids(chosen), "values": reals(mean[chosen] + 0.0)}
        clauses = "GRD-003 GROW-001 GROW-002 SEL-001" + (" GRD-004 TRN-005" if steps > 1 else "")
        text = "candidates lost between row blocks, or |g| summed instead of g"
        area.add(f"candidates-{name}", "gradient.candidates", clauses, text, inputs, outputs)


AREAS = (linear,)
