"""Cases of chapters 4 and 6: layers forward and backward, and the gradient of a matrix.

Every gradient is checked against a complex step before it is written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen import layers_overflows
from conformance.gen.numbers import Area, Array, Numbers, ids, product_bound, reals
from conformance.oracle import layers, select
from conformance.oracle.tape import Var, gradients

_STEP = 1e-30
_ORACLE = "binary64 formula; gradients recorded, checked by complex step"


def differentiate(f: Callable[..., Var], inputs: Sequence[Array], dy: Array) -> tuple[Array, list[Array]]:
    """Return f(*inputs) and the gradients of sum(dy · f) by each input.

    Raises:
        AssertionError: a gradient differs from a complex step along a direction.
    """
    variables = [Var(x) for x in inputs]
    y = f(*variables)
    grads = gradients(y, dy, variables)
    for i, (x, g) in enumerate(zip(inputs, grads, strict=True)):
        direction = Numbers(20, i).real(x.shape)
        moved = [Var(z + 1j * _STEP * direction) if j == i else Var(z) for j, z in enumerate(inputs)]
        slope = float((f(*moved).value * dy).sum().imag / _STEP)
        scale = float(np.abs(g * direction).sum()) + 1e-3 * float(np.abs(dy).max(initial=0.0))
        assert abs(slope - float((g * direction).sum())) <= 1e-11 * scale, "the recorded gradient is wrong"
    return y.value, grads


def embedding() -> Area:
    """Return cases of the embedding (LYR-001)."""
    area = Area("embedding", _ORACLE)
    n = Numbers(10, 1)
    weight = n.real((7, 5))
    for name, tokens, purpose in (
        ("repeated", [3, 0, 3, 6, 3], "a repeated token overwrites instead of adding"),
        ("all", list(range(7)), "rows in another order"),
        ("none", [], "no token"),
    ):
        t = ids(tokens)
        dy = n.lattice((len(tokens), 5))
        y, (dweight,) = differentiate(lambda w, t=t: layers.embedding(w, t), [weight], dy)
        gauge = np.zeros((7, 5))
        np.add.at(gauge, t, np.abs(dy))
        inputs = {"weight": weight, "tokens": t, "dy": dy}
        answer = {"y": y, "dweight": dweight}
        area.add(name, "layer.embedding", "LYR-001", purpose, inputs, answer, bounds={"dweight": Bound(gauge, 5)})
    for name, token in (("high", 7), ("negative", -1)):
        inputs = {"weight": weight, "tokens": ids([0, token]), "dy": n.lattice((2, 5))}
        area.add(
            f"refuse-{name}",
            "layer.embedding",
            "LYR-001",
            "an index that wraps around",
            inputs,
            refused="LYR-001",
        )
    return area


def rmsnorm() -> Area:
    """Return cases of RMSNorm (LYR-002)."""
    area = Area("rmsnorm", _ORACLE)
    n = Numbers(10, 2)
    for name, shape, scale, eps, purpose in (
        ("plain", (3, 7), 1.0, 1e-5, "mean subtracted, or the sum taken for the mean"),
        ("small", (4, 8), 2.0**-7, 1e-5, "eps outside the root"),
        ("smaller", (2, 3, 6), 2.0**-10, 1e-5, "eps outside the root, three axes"),
        ("large-eps", (3, 5), 1.0, 0.25, "eps dropped or added to r"),
        ("large", (2, 9), 2.0**20, 1e-6, "squares that lose their scale"),
        ("one", (1, 1), 1.0, 1e-5, "a single entry"),
    ):
        x, weight, dy = n.real(shape, scale), n.real(shape[-1]) + 1, n.real(shape)
        weight = weight.astype(np.float32).astype(np.float64)
        y, (dx, dw) = differentiate(lambda a, w, eps=eps: layers.rmsnorm(a, w, eps), [x, weight], dy)
        inputs = {"x": x, "weight": weight, "eps": eps, "dy": dy}
        area.add(name, "layer.rmsnorm", "LYR-002 NUM-004", purpose, inputs, {"y": y, "dx": dx, "dweight": dw})
    zero = np.zeros((2, 4))
    dy = n.real((2, 4))
    y, (dx, dw) = differentiate(lambda a, w: layers.rmsnorm(a, w, 2.0**-16), [zero, np.ones(4)], dy)
    inputs = {"x": zero, "weight": np.ones(4), "eps": 2.0**-16, "dy": dy}
    area.add(
        "zero",
        "layer.rmsnorm",
        "LYR-002",
        "0 / 0 in a row of zeros",
        inputs,
        {"y": y, "dx": dx, "dweight": dw},
    )
    layers_overflows.rows(area)
    return area


def linear() -> Area:
    """Return cases of the linear layer and of gradients of a matrix (LYR-003, GRD-001 to GRD-004, NUM-002, NUM-003)."""
    area = Area("linear", _ORACLE)
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
        inputs = [x, w, draw(outs)] if biased else [x, w]
        y, grads = differentiate(layers.linear, inputs, dy)
        flat_x, flat_dy = x.reshape(-1, shape[-1]), dy.reshape(-1, outs)
        rows = len(flat_x)
        edge = np.abs(inputs[2]) if biased else 0.0
        bounds = {
            "y": Bound(np.abs(x) @ np.abs(w).T + edge, shape[-1] + 1),
            "dx": product_bound(dy, w, outs),
            "dweight": product_bound(flat_dy.T, flat_x, rows),
            "dbias": Bound(np.abs(flat_dy).sum(axis=0), rows),
        }
        answer = {"y": y, "dx": grads[0], "dweight": grads[1], "dbias": grads[2] if biased else None}
        bounds = {k: b if not exact else Bound(np.zeros_like(b.gauge), b.terms) for k, b in bounds.items()}
        case_inputs = {"x": x, "weight": w, "bias": inputs[2] if biased else None, "dy": dy}
        clauses = "LYR-003 GRD-001 NUM-003" if exact else "LYR-003 GRD-001 NUM-002"
        text = "a transposed backward, the bias twice, low-precision products"
        area.add(name, "layer.linear", clauses, text, case_inputs, answer, bounds=bounds)
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
    answer = {"gradient": whole}
    area.add(
        "gradient-sums", "gradient.whole", "GRD-001 NUM-003 PRT-011", text, inputs, answer, bounds={"gradient": bound}
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
        answer = {"candidates": ids(chosen), "values": reals(mean[chosen] + 0.0)}
        clauses = "GRD-003 GROW-001 GROW-002 SEL-001" + (" GRD-004 TRN-005" if steps > 1 else "")
        text = "candidates lost between row blocks, or |g| summed instead of g"
        area.add(f"candidates-{name}", "gradient.candidates", clauses, text, inputs, answer)


_ROPES: dict[str, dict[str, Any]] = {
    "default": {"type": "default", "base": 10000.0},
    "linear": {"type": "linear", "base": 100.0, "factor": 4.0},
    "dynamic": {"type": "dynamic", "base": 100.0, "factor": 2.0, "max_position_embeddings": 6},
    "llama3": {"type": "llama3", "base": 500.0, "factor": 8.0, "low": 1.0, "high": 4.0, "original": 32},
}


def rope() -> Area:
    """Return cases of rotary embeddings (LYR-004 to LYR-006)."""
    area = Area("rope", _ORACLE)
    n = Numbers(10, 4)
    for kind, inputs in _ROPES.items():
        inputs = {"max_position_embeddings": 64} | inputs
        for width, length in ((8, 5), (8, 12), (6, 6), (16, 40)):
            f = reals(layers.frequencies(width, inputs, length))
            # the bound is 16 units, because rounding in the exponent makes a power lose a few units
            bound = {"frequencies": Bound(np.abs(f), 16)}
            case_inputs = {"head_dim": width, "length": length, "rope": inputs}
            clause = "LYR-006" if kind == "llama3" else "LYR-005"
            text = "bands, factor or context applied at the wrong place"
            area.add(
                f"{kind}-{width}-{length}",
                "rope.frequencies",
                clause,
                text,
                case_inputs,
                {"frequencies": f},
                bounds=bound,
            )
        shape = (2, 9, 2, 8)
        x, dy = n.real(shape), n.real(shape)
        f8 = layers.frequencies(8, inputs, 9)
        y, (dx,) = differentiate(lambda a, f=f8: layers.rotate(a, f), [x], dy)
        text = "neighbours paired instead of halves, the first position 1, the backward turned forward"
        clauses = f"LYR-004 {'LYR-006' if kind == 'llama3' else 'LYR-005'} NUM-002"
        bounds = {"y": _pairs(x), "dx": _pairs(dy)}
        area.add(
            kind,
            "layer.rope",
            clauses,
            text,
            {"x": x, "rope": inputs, "dy": dy},
            {"y": y, "dx": dx},
            bounds=bounds,
        )
    shape = (1, 160, 1, 4)
    x, dy = n.lattice(shape, 2), n.lattice(shape, 2)
    far = {"type": "default", "base": 3.0, "max_position_embeddings": 64}
    y, (dx,) = differentiate(lambda a: layers.rotate(a, layers.frequencies(4, far, 160)), [x], dy)
    text = "angles computed in binary32"
    bounds = {"y": _pairs(x), "dx": _pairs(dy)}
    area.add(
        "farther",
        "layer.rope",
        "LYR-004 NUM-002",
        text,
        {"x": x, "rope": far, "dy": dy},
        {"y": y, "dx": dx},
        bounds=bounds,
    )
    shape, far = (1, 300, 1, 6), {"type": "default", "base": 7.0, "max_position_embeddings": 512}
    x, dy = n.lattice(shape, 2), n.lattice(shape, 2)
    y, (dx,) = differentiate(lambda a: layers.rotate(a, layers.frequencies(6, far, 300)), [x], dy)
    inputs = {"x": x, "rope": far, "dy": dy}
    bounds = {"y": _pairs(x), "dx": _pairs(dy)}
    text = "frequencies that are not right to 50 bits, far from the first position"
    area.add("powers", "layer.rope", "LYR-004 LYR-017 NUM-002", text, inputs, {"y": y, "dx": dx}, bounds=bounds)
    return area


def _pairs(x: Array) -> Bound:
    """Return the bound of a rotation: |x_j| + |x_{j+D/2}| for both entries of a pair."""
    half = x.shape[-1] // 2
    total = np.abs(x[..., :half]) + np.abs(x[..., half:])
    return Bound(np.concatenate([total, total], axis=-1), 2)


def attention() -> Area:
    """Return cases of attention (LYR-007 to LYR-009)."""
    area = Area("attention", _ORACLE)
    n = Numbers(10, 5)
    pad = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 1]])
    for name, rows, length, heads, kv, width, mask, window, scale, purpose in (
        ("plain", 1, 5, 1, 1, 4, None, None, 1.0, "the mask a position off, no 1/sqrt(D)"),
        ("grouped", 2, 4, 6, 2, 2, None, None, 1.0, "query heads assigned to key heads in turns"),
        ("grouped-3", 1, 3, 6, 3, 4, None, None, 1.0, "heads repeated in the wrong order"),
        ("window", 1, 7, 2, 1, 4, None, 3, 1.0, "a window one key too wide or narrow"),
        ("window-1", 1, 4, 1, 1, 2, None, 1, 1.0, "a window of one: each query sees itself"),
        ("window-wide", 1, 4, 1, 1, 2, None, 9, 1.0, "a window wider than the row"),
        ("padding", 3, 5, 2, 1, 4, pad, None, 1.0, "padding seen, or a row that sees nothing averaged"),
        ("padding-window", 3, 5, 2, 2, 4, pad, 2, 1.0, "window and mask not combined"),
        ("large", 1, 5, 2, 1, 4, None, None, 1.0, "exponentials without the largest score taken off"),
        ("larger", 1, 5, 2, 1, 4, None, None, 1.0, "exponentials without the largest score taken off"),
        ("one", 2, 1, 1, 1, 2, None, None, 1.0, "a single token"),
    ):
        q, dy = n.real((rows, length, heads, width), scale), n.real((rows, length, heads, width))
        k, v = n.real((rows, length, kv, width), scale), n.real((rows, length, kv, width))
        dtypes = ("float64",) if name == "larger" else ("float64", "float32")
        if name.startswith("large"):  # scores near 200 overflow exp in binary32, and scores near 2000 in binary64
            far = {"large": 10.0, "larger": 32.0}[name]
            q, k = (x.astype(np.float32).astype(np.float64) for x in (q / far + far, k / far + far))
        y, grads = differentiate(lambda a, b, c, m=mask, w=window: layers.attention(a, b, c, m, w), [q, k, v], dy)
        inputs: dict[str, Any] = {"q": q, "k": k, "v": v, "mask": None if mask is None else mask.astype(bool)}
        inputs |= {"window": window, "dy": dy}
        answer = dict(zip(("y", "dq", "dk", "dv"), (y, *grads), strict=True))
        clauses = "LYR-007 LYR-008 NUM-004" + (" LYR-009" if mask is not None else "")
        bounds: dict[str, Bound] = {}
        zeros: tuple[str, ...] = ("y", "dq", "dk", "dv")
        if name in ("one", "window-1"):  # dq and dk cancel to 0, so their bound is the size of their terms
            answer |= {x: np.zeros_like(answer[x]) for x in ("dq", "dk")}
            bounds, zeros = {x: Bound(np.asarray(1.0), 1) for x in ("dq", "dk")}, ()
        area.add(
            name,
            "layer.attention",
            clauses,
            purpose,
            inputs,
            answer,
            zeros=zeros,
            bounds=bounds,
            dtypes=dtypes,
        )
    layers_overflows.attention_scores(area)
    return area


def swiglu() -> Area:
    """Return cases of SwiGLU (LYR-010)."""
    area = Area("swiglu", _ORACLE)
    n = Numbers(10, 6)
    for name, gate, purpose in (
        ("plain", n.real((3, 7), 2.0), "gate and up exchanged, the derivative of silu wrong"),
        ("three-axes", n.real((2, 2, 5)), "more axes than two"),
        ("large", reals([90.0, 100.0, 750.0, 1000.0]), "exp overflows for large z"),
        ("large-negative", reals([-90.0, -110.0, -750.0, -1000.0]), "exp(−z) overflows for very negative z"),
        ("huge", reals([1e30, 2.0**100]), "inf · 0"),
        ("huge-negative", reals([-(2.0**100), -(2.0**99)]), "inf · 0, or NaN in the backward"),
        ("zero", np.zeros(3), "silu(0)"),
    ):
        gate = gate.astype(np.float32).astype(np.float64)
        up, dy = n.real(gate.shape), n.real(gate.shape)
        with np.errstate(over="ignore"):
            y, (dgate, dup) = differentiate(layers.swiglu, [gate, up], dy)
        inputs, answer = {"gate": gate, "up": up, "dy": dy}, {"y": y, "dgate": dgate, "dup": dup}
        dtypes = ("float64",) if name == "large-negative" else ("float64", "float32")
        area.add(name, "layer.swiglu", "LYR-010 NUM-004", purpose, inputs, answer, dtypes=dtypes)
    return area


def cross_entropy() -> Area:
    """Return cases of cross-entropy (LYR-011)."""
    area = Area("cross_entropy", _ORACLE)
    n = Numbers(10, 7)
    for name, rows, classes, scale, targets, count, purpose in (
        ("plain", 4, 7, 1.0, [0, 3, 6, 3], 4, "a sum for a mean, one-hot at the wrong class"),
        ("ignored", 5, 6, 1.0, [-100, 2, -100, 0, 5], 3, "the loss averaged over ignored rows"),
        ("part-of-a-step", 3, 5, 1.0, [1, -100, 4], 7, "the count of the rows instead of the step's"),
        ("all-ignored", 2, 4, 1.0, [-100, -100], 3, "0 / 0 where nothing counts"),
        ("large", 3, 5, 512.0, [0, 1, 2], 3, "exponentials without the largest logit taken off"),
        ("one-class", 2, 1, 1.0, [0, 0], 2, "a single class"),
    ):
        logits = n.real((rows, classes), scale)
        target_ids = ids(targets)
        dloss = 0.5
        y, (dlogits,) = differentiate(
            lambda a, t=target_ids, c=count: layers.cross_entropy(a, t, c), [logits], np.asarray(dloss)
        )
        inputs = {"logits": logits, "targets": target_ids, "count": count, "dloss": dloss}
        answer = {"loss": float(y), "dlogits": dlogits}
        ignored = ("dlogits",) if "ignored" in name or "part" in name else ()
        area.add(name, "layer.cross_entropy", "LYR-011 NUM-004", purpose, inputs, answer, zeros=ignored)
    for name, target in (("high", 5), ("negative", -1), ("minus-99", -99)):
        inputs = {"logits": n.real((2, 5)), "targets": ids([0, target]), "count": 2, "dloss": 1.0}
        area.add(
            f"refuse-{name}",
            "layer.cross_entropy",
            "LYR-011",
            "a class that wraps around",
            inputs,
            refused="LYR-011",
        )
    return area


AREAS = (embedding, rmsnorm, linear, rope, attention, swiglu, cross_entropy)
