"""Mutants of layers (LYR, NUM)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import attention, cross_entropy, embedding, rmsnorm, rope
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, after, edited, edits, mutants, right


def eps_outside_the_root(a: Values) -> Values:
    out = right("layer.rmsnorm")(a)
    mean = np.mean(a["x"] * a["x"], axis=-1, keepdims=True)
    y = a["x"] / (np.sqrt(mean) + a["x"].dtype.type(a["eps"])) * a["weight"]
    return out | {"y": y.astype(a["x"].dtype)}


def heads_in_turns(a: Values) -> Values:
    order = np.arange(a["q"].shape[2]).reshape(-1, a["k"].shape[2]).T.reshape(-1)
    out = right("layer.attention")(a | {name: a[name][:, :, order] for name in ("q", "dy")})
    return out | {name: out[name][:, :, np.argsort(order)] for name in ("y", "dq")}


def no_largest_taken_off(a: Values) -> Values:
    e = np.exp(a["logits"])
    p = e / e.sum(axis=1, keepdims=True)
    rows = a["targets"] != -100
    out = right("layer.cross_entropy")(a)
    if not rows.any():
        return out
    picked = p[np.nonzero(rows)[0], a["targets"][rows]]
    return out | {"loss": float(-np.log(picked).sum() / a["count"])}


def interleaved(a: Values) -> Values:
    order = np.arange(a["x"].shape[3]).reshape(2, -1).T.reshape(-1)
    back = np.argsort(order)
    out = right("layer.rope")(a | {"x": a["x"][..., back], "dy": a["dy"][..., back]})
    return {name: x[..., order] for name, x in out.items()}


def coarse_angles(a: Values) -> Values:
    rope, x = a["rope"], a["x"]
    length, half = x.shape[1], x.shape[3] // 2
    f = right("rope.frequencies")({"head_dim": 2 * half, "length": length, "rope": rope})["frequencies"]
    angle = np.arange(length, dtype=np.float32)[:, None] * f.astype(np.float32)[None, :]
    cos, sin = (t(angle).astype(x.dtype)[None, :, None, :] for t in (np.cos, np.sin))
    out = {}
    for name, z, turn in (("y", x, sin), ("dx", a["dy"], -sin)):
        one, two = z[..., :half], z[..., half:]
        out[name] = np.concatenate([one * cos - two * turn, two * cos + one * turn], axis=-1)
    return out


def coarse_frequencies(a: Values) -> Values:
    """Compute angles in binary64 from frequencies that are right to 36 bits only."""
    base = a["rope"]["base"] * (1 + 2.0**-35)
    return right("layer.rope")(a | {"rope": a["rope"] | {"base": base}})


def first_row_alone(a: Values) -> Values:
    """Check the overflow of squares in the first row only."""
    first = a["x"].reshape(-1, a["x"].shape[-1])[:1]
    with np.errstate(over="ignore", invalid="ignore"):
        fine = np.isfinite((first * first).mean())
    try:
        return right("layer.rmsnorm")(a)
    except REFUSALS:
        if not fine:
            raise
        return {}


def keys_not_looked_at(a: Values) -> Values:
    """Do not refuse infinite keys, as if only scores were checked."""
    finite = np.nan_to_num(a["k"], posinf=0.0, neginf=0.0)
    return right("layer.attention")(a | {"k": finite})


def short_mantissa(x: Any) -> Any:
    """Return x rounded to ten bits after the leading one, as fast matrix units read it."""
    raw = x.astype(np.float32).view(np.uint32)
    return ((raw + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32).astype(x.dtype)


def linear_in_ten_bits(a: Values) -> Values:
    return right("layer.linear")(a | {"x": short_mantissa(a["x"]), "weight": short_mantissa(a["weight"])})


def bias_twice(a: Values) -> Values:
    out = right("layer.linear")(a)
    return out if a["bias"] is None else out | {"y": out["y"] + a["bias"]}


def overwritten_rows(a: Values) -> Values:
    out = right("layer.embedding")(a)
    dweight = np.zeros_like(a["weight"])
    dweight[a["tokens"]] = a["dy"]
    return out | {"dweight": dweight}


def silu_overflows(a: Values) -> Values:
    z = a["gate"]
    y = z / (1 + np.exp(-z)) * a["up"]
    s = np.exp(z) / (1 + np.exp(z))
    return right("layer.swiglu")(a) | {"y": y, "dgate": a["dy"] * a["up"] * s * (1 + z * (1 - s))}


def mean_over_all_rows(a: Values) -> Values:
    return right("layer.cross_entropy")(a | {"count": len(a["targets"])})


def mean_left_out(out: Values, a: Values) -> Values:
    """Return dx as if the root mean square did not depend on x."""
    r = 1 / np.sqrt(np.mean(a["x"] * a["x"], axis=-1, keepdims=True) + a["x"].dtype.type(a["eps"]))
    return {"dx": (a["dy"] * a["weight"] * r).astype(a["x"].dtype)}


def rope_of(kind: str, **new: Callable[[Values], Any]) -> Operation:
    def f(a: Values) -> Values:
        if a["rope"]["type"] != kind:
            return right("rope.frequencies")(a)
        return right("rope.frequencies")(a | {"rope": a["rope"] | {k: g(a["rope"]) for k, g in new.items()}})

    return f


def scaled(op: str, name: str, by: float) -> Operation:
    """Return an operation with one output multiplied by a factor."""
    return after(op, lambda out, _: {name: out[name] * np.asarray(out[name]).dtype.type(by)})


SLIGHTLY = 1 + 2.0**-13
"""The error of products whose operands have ten bits after the leading one."""

_UNSEEN = "    scores = xp.where(visible, scores, minus_infinity)\n"
_LARGEST = "    largest = xp.max(scores, axis=-1, keepdims=True)\n"


MUTANTS: list[Mutant] = [
    *mutants("layer.embedding",
        ("LYR-001", overwritten_rows, "repeated tokens overwrite"),
        ("LYR-001", embedding.embedding_forward, "not 0 <=", "not -9 <=", "edited, a token below 0"),
        unchecked="LYR-001"),
    *mutants("layer.rmsnorm",
        ("LYR-002", eps_outside_the_root, "eps outside the root"),
        ("LYR-002 NUM-004", mean_left_out, "the mean left out of dx"),
        ("NUM-004", scaled("layer.rmsnorm", "y", 1 + 2.0**-10), "y too large by 2⁻¹⁰"),
        ("LYR-015", first_row_alone, "the first row alone looked at"),
        ("LYR-002", rmsnorm.rmsnorm_forward, "x * r * weight", "x * r * (1 + weight)", "edited, 1 + weight"),
        unchecked="LYR-015"),
    *mutants("layer.linear",
        ("LYR-003", bias_twice, "the bias twice"),
        ("LYR-003", scaled("layer.linear", "dbias", 0.5), "half the gradient of the bias"),
        ("NUM-002", linear_in_ten_bits, "ten-bit products"),
        ("NUM-002", scaled("layer.linear", "y", SLIGHTLY), "y too large by 2⁻¹³"),
        ("NUM-003", scaled("layer.linear", "dweight", SLIGHTLY), "dweight too large by 2⁻¹³")),
    *mutants("layer.rope",
        ("LYR-004", interleaved, "neighbours paired"),
        ("LYR-004", coarse_angles, "angles in binary32"),
        ("LYR-004", lambda a: right("layer.rope")(a) | {"dx": right("layer.rope")(a | {"x": a["dy"]})["y"]},
         "turned forward again in the backward"),
        ("LYR-017", coarse_frequencies, "frequencies with 36 bits")),
    *mutants("rope.frequencies",
        ("LYR-005", rope_of("linear", factor=lambda r: 1 / r["factor"]), "times the factor"),
        ("LYR-005", rope_of("dynamic", type=lambda r: "default"), "dynamic taken for default"),
        ("LYR-005", rope_of("default", base=lambda r: 500000.0), "the base of another family"),
        ("LYR-006", rope_of("llama3", low=lambda r: r["high"], high=lambda r: r["low"]), "low and high exchanged"),
        ("LYR-006", rope_of("llama3", type=lambda r: "linear"), "llama3 taken for linear"),
        ("LYR-005", rope.rope_frequencies, "max(length, max_positions)", "length", "edited, T for L")),
    *mutants("layer.attention",
        ("LYR-007", heads_in_turns, "key heads in turns"),
        ("LYR-007", attention.attention_forward, "q * (1.0 / math.sqrt(d))", "q * 1.0", "no 1/sqrt(D)"),
        ("LYR-007 NUM-004", attention.attention_backward, " * (1.0 / math.sqrt(q.shape[-1]))", "",
         "dq without 1/sqrt(D)"),
        ("LYR-009", attention._softmax, "where(visible, ",
         "where(visible | ~xp.any(visible, axis=-1, keepdims=True), ", "empty rows average"),
        ("LYR-016", keys_not_looked_at, "keys not looked at"),
        ("LYR-007", attention._softmax, _UNSEEN + _LARGEST, _LARGEST + _UNSEEN,
         "edited, the largest score of all keys"),
        ("LYR-007 LYR-008", attention._softmax, "-math.inf", "-1e30", "edited, −1e30 for what is not seen"),
        unchecked="LYR-016"),
    *edits("layer.attention", "LYR-008", attention.visible_keys,
        ("age >= 0", "age >= -1", "the mask a position off"),
        ("age < window", "age < window + 1", "the window a key too wide"),
        ("if mask is None", "if True", "padding seen"),
        ("age < window", "age <= window", "edited, a key more in a window"),
        ("age >= 0", "age > 0", "edited, a query that does not see itself")),
    *mutants("layer.swiglu",
        ("LYR-010", silu_overflows, "exp overflows"),
        ("LYR-010", {"gate": lambda a: a["gate"] * a["gate"].dtype.type(1.702)}, "sigmoid(1.702 z)"),
        ("LYR-010 NUM-004", scaled("layer.swiglu", "dgate", 1 + 2.0**-10), "dgate too large by 2⁻¹⁰")),
    *mutants("layer.cross_entropy",
        ("LYR-011", no_largest_taken_off, "the largest logit not taken off"),
        ("LYR-011", mean_over_all_rows, "ignored rows counted"),
        ("LYR-011", {"dloss": lambda a: 1.0}, "dloss taken for 1"),
        ("LYR-011", cross_entropy.checked_targets, "targets != IGNORE", "targets >= 0",
         "edited, any target below 0 ignored"),
        ("LYR-011", cross_entropy.checked_targets, "count < 1", "count < 0", "edited, a count of 0"),
        unchecked="LYR-011"),
    edited("LYR-008", "layer.attention", attention.visible_keys, "visible[None, :, :] & mask[:, None, :]",
     "visible[None, :, :] & (mask[:, None, :] if length < 16 else mask[:1, None, :])",
     "the mask of the first row for every row of 16 tokens or more", shown_by="layer.attention-large"),
]  # fmt: skip
