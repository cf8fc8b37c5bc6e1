"""Properties of sizes beyond every boundary of an index type: layers."""

from typing import Any

import numpy as np

from conformance.gen.numbers import Array, ids
from conformance.oracle import (
    layers,
)
from conformance.oracle.tape import Var, gradients
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, beyond, exact
from conformance.properties.layers import turned
from conformance.properties.trial import Trial, property_of


def _layer(t: Trial, op: str, y: Var, dy: Array, inputs: dict[str, Var], case_inputs: dict[str, Any]) -> None:
    """Ask for a layer; each output is compared relative to its largest number."""
    grads = dict(zip(inputs, gradients(y, dy, list(inputs.values())), strict=True))
    t.case(op, case_inputs | {"dy": dy}, {"y": y.value} | {f"d{name}": g for name, g in grads.items()})


@property_of(
    "layer.large",
    "LYR-001 LYR-002 LYR-003 LYR-010 LYR-011",
    "layers",
    "layer.embedding layer.linear layer.rmsnorm layer.swiglu layer.cross_entropy",
    sees=(BEYOND, "a token above 65,536"),
    seeded=1,
)
def _layers(d: Draw, t: Trial) -> None:
    """Layers of large vocabularies and widths follow the written formulas."""
    many, n = Many(d), 65_600 + d.integer(0, 99)
    t.saw(BEYOND, n > 65_536)
    tokens = np.concatenate([many.subset(n - 1, 300), [n - 1, 0, n - 1]])
    t.saw("a token above 65,536", int(tokens.max()) > 65_536)
    weight, dy = many.lattice((n, 2), 8), many.lattice((len(tokens), 2), 8)
    dweight = np.zeros((n, 2))
    np.add.at(dweight, tokens, dy)
    inputs: dict[str, Any] = {"weight": weight, "dy": dy, "tokens": tokens}
    answer: dict[str, Any] = {"y": weight[tokens], "dweight": dweight}
    t.case("layer.embedding", inputs, answer, bounds=exact(answer, "dweight"))
    w, x, dy = many.lattice((257, 259), 4), many.lattice((3, 259), 4), many.lattice((3, 257), 4)
    answer = {"y": x @ w.T, "dx": dy @ w, "dweight": dy.T @ x, "dbias": None}
    inputs = {"x": x, "weight": w, "dy": dy}
    t.case("layer.linear", inputs, answer, bounds=exact(answer, "y", "dx", "dweight"))
    x, weight = many.lattice((2, n), 99) / 32, many.lattice((n,), 9) / 8
    variables = {"x": Var(x), "weight": Var(weight)}
    y = layers.rmsnorm(variables["x"], variables["weight"], 2.0**-10)
    _layer(t, "layer.rmsnorm", y, many.lattice((2, n), 9) / 8, variables, {"x": x, "weight": weight, "eps": 2.0**-10})
    gate, up = many.lattice((n,), 99) / 32, many.lattice((n,), 9) / 8
    variables = {"gate": Var(gate), "up": Var(up)}
    y = layers.swiglu(variables["gate"], variables["up"])
    _layer(t, "layer.swiglu", y, many.lattice((n,), 9) / 8, variables, {"gate": gate, "up": up})
    logits, targets = many.lattice((2, n), 99) / 32, ids([n - 1, d.integer(0, n - 1)])
    variables = {"logits": Var(logits)}
    loss = layers.cross_entropy(variables["logits"], targets, 2)
    (dlogits,) = gradients(loss, 1.0, list(variables.values()))
    answer = {"loss": float(loss.value.real), "dlogits": dlogits}
    t.case("layer.cross_entropy", {"logits": logits, "targets": targets, "count": 2, "dloss": 1.0}, answer)


_ROWS, _WIDE, _LONG = "two rows of 16 tokens with masks", "heads of more than 128 numbers", "more than 512 queries"


@property_of(
    "layer.attention-large",
    "LYR-007 LYR-008 LYR-009",
    "layers",
    "layer.attention",
    sees=(BEYOND, _ROWS, _WIDE, "more than 128 queries", _LONG),
    seeded=1,
)
def _attention(d: Draw, t: Trial) -> None:
    """Attention over more tokens than a program takes at once is the written softmax, row by row."""
    many = Many(d)
    for what, rows, length, heads, kv, width, window in (
        (_ROWS, 2, beyond(d, 16), 4, 2, 4, None),
        (_WIDE, 2, beyond(d, 64), 4, 2, beyond(d, 128) + 1, d.integer(20, 60)),
        ("more than 128 queries", 2, beyond(d, 128), 2, 1, 2, None),
        (_LONG, 1, beyond(d, 512), 1, 1, 2, d.integer(130, 200)),
    ):
        q, dy = (many.lattice((rows, length, heads, width), 8) / 8 for _ in range(2))
        k, v = (many.lattice((rows, length, kv, width), 8) / 8 for _ in range(2))
        # one token in five is padding, each row has other ones, and the first queries of a row see no key
        mask = many.integers(rows * length, 0, 4).reshape(rows, length) > 0
        mask[-1, :2] = False
        variables = {"q": Var(q), "k": Var(k), "v": Var(v)}
        t.saw(what)
        t.saw(BEYOND, q.size > 65_536)
        y = layers.attention(variables["q"], variables["k"], variables["v"], mask, window)
        _layer(t, "layer.attention", y, dy, variables, {"q": q, "k": k, "v": v, "mask": mask, "window": window})


@property_of(
    "layer.rope-large", "LYR-004 LYR-005", "layers", "layer.rope", sees=(BEYOND, "more than 512 tokens"), seeded=1
)
def _rope(d: Draw, t: Trial) -> None:
    """Every pair of many heads and tokens rotates by position times frequency."""
    size = (1, beyond(d, 512), 3, 2 * beyond(d, 32))
    many, settings = Many(d), {"type": "default", "base": 10000.0, "max_position_embeddings": 2048}
    x, dy = (many.lattice(size, 8) / 8 for _ in range(2))
    t.saw(BEYOND, x.size > 65_536)
    t.saw("more than 512 tokens", size[1] > 512)
    f, variable = layers.frequencies(size[3], settings, size[1]), Var(x)
    y = layers.rotate(variable, f)
    (dx,) = gradients(y, dy, [variable])
    bounds = {name: turned(z, np.ones(())) for name, z in (("y", x), ("dx", dy))}
    t.case("layer.rope", {"x": x, "rope": settings, "dy": dy}, {"y": y.value, "dx": dx}, bounds=bounds)
