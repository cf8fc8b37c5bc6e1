"""Wrong programs: our engine with one operation replaced by a plausible mistake."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np

import formats
from conformance.oracle import rules
from conformance.ports.engine import EnginePort
from conformance.ports.engine_files import described
from seft_ref.errors import SeftError
from seft_ref.layers.attention import attention_backward, attention_forward

ENGINE = EnginePort()


def right(op):
    """The engine's own operation."""
    return ENGINE.ops[op]


def ids(values):
    return np.array(list(values), dtype=np.int64)


def changed(op, **inputs):
    """The operation with some inputs replaced by functions of all inputs."""
    return lambda a: right(op)(a | {name: f(a) for name, f in inputs.items()})


# --- selection, counts, schedules ---


def higher_id_wins(sign):
    def op(a):
        order = np.lexsort((-a["ids"], sign * a["scores"]))
        return {"chosen": np.sort(a["ids"][order[: a["k"]]])}

    return op


def in_order_of_score(a):
    order = np.lexsort((a["ids"], -a["scores"]))
    return {"chosen": a["ids"][order[: a["k"]]]}


def nan_ranked(a):
    return {"chosen": np.sort(a["ids"][np.argsort(a["scores"], kind="stable")[: a["k"]]])}


def rate(a):
    return rules.drop_fraction(a["drop_fraction"], a["step"], a["steps"]) * a["slots"]


def budget_before_the_cap(a):
    return a["density"] * a["out"] * a["in"]


# --- optimizer ---


def adamw(flaw=""):
    def op(a):
        kind = a["values"].dtype.type
        beta1 = 0.9 if a["beta1"] is None else a["beta1"]
        beta2 = 0.999 if a["beta2"] is None else a["beta2"]
        eps = 1e-8 if a["eps"] is None else a["eps"]
        decay = a["weight_decay"] or 0.0
        g, lr, values = a["gradient"], a["lr"], a["values"]
        age = a["age"] + 1
        steps = np.full_like(age, age.max(initial=1)) if flaw == "global step" else age
        if flaw != "decay after":
            values = values * kind(1 - lr * decay)
        if flaw == "coupled decay":
            g, values = g + kind(decay) * a["values"], a["values"]
        rest1, rest2 = kind(1 - beta1), kind(1 - beta2)
        if flaw == "1 - beta in the run's dtype":
            rest1, rest2 = kind(1) - kind(beta1), kind(1) - kind(beta2)
        m = kind(beta1) * a["m"] + rest1 * g
        v = kind(beta2) * a["v"] + rest2 * (g * g)
        if flaw == "corrections in the run's dtype":
            c1, c2 = 1 - kind(beta1) ** steps.astype(kind), np.sqrt(1 - kind(beta2) ** steps.astype(kind))
            size = kind(lr) / c1
        else:
            c2 = np.sqrt(1 - beta2 ** steps.astype(float)).astype(kind)
            size = (lr / (1 - beta1 ** steps.astype(float))).astype(kind)
        if flaw == "eps inside the root":
            down = np.sqrt(v + kind(eps)) / c2
        elif flaw == "eps before the correction":
            down = (np.sqrt(v) + kind(eps)) / c2
        else:
            down = np.sqrt(v) / c2 + kind(eps)
        values = values - size * (m / down)
        if flaw == "decay after":
            values = values * kind(1 - lr * decay)
        return {"values": values, "m": m, "v": v, "age": age}

    return op


# --- layers ---


def eps_outside_the_root(a):
    out = right("layer.rmsnorm")(a)
    mean = np.mean(a["x"] * a["x"], axis=-1, keepdims=True)
    y = a["x"] / (np.sqrt(mean) + a["x"].dtype.type(a["eps"])) * a["weight"]
    return out | {"y": y.astype(a["x"].dtype)}


def attention(flaw):
    def op(a):
        q, k, v, dy = (np.transpose(a[name], (0, 2, 1, 3)) for name in ("q", "k", "v", "dy"))
        length, groups = q.shape[2], q.shape[1] // k.shape[1]
        if flaw == "heads in turns":
            k, v = (np.tile(x, (1, groups, 1, 1)) for x in (k, v))
        age = np.arange(length)[:, None] - np.arange(length)[None, :]
        seen = (age >= (-1 if flaw == "sees the next" else 0)) & (
            age < (math.inf if a["window"] is None else a["window"] + (flaw == "window too wide"))
        )
        seen = np.broadcast_to(seen, (q.shape[0], length, length))
        if a["mask"] is not None:
            seen = seen & a["mask"][:, None, :]
        if flaw == "empty rows average":
            seen = seen | ~seen.any(axis=2, keepdims=True)
        y, cache = attention_forward(q, k, v, seen)
        if flaw == "no scale":
            y, cache = attention_forward(q * q.dtype.type(math.sqrt(q.shape[3])), k, v, seen)
        found = (y, *attention_backward(dy, cache))
        return {name: np.transpose(x, (0, 2, 1, 3)) for name, x in zip(("y", "dq", "dk", "dv"), found, strict=True)}

    return op


def no_largest_taken_off(a):
    e = np.exp(a["logits"])
    p = e / e.sum(axis=1, keepdims=True)
    rows = a["targets"] != -100
    out = right("layer.cross_entropy")(a)
    if not rows.any():
        return out
    picked = p[np.nonzero(rows)[0], a["targets"][rows]]
    return out | {"loss": float(-np.log(picked).sum() / a["count"])}


def interleaved(a):
    order = np.arange(a["x"].shape[3]).reshape(2, -1).T.reshape(-1)
    back = np.argsort(order)
    out = right("layer.rope")(a | {"x": a["x"][..., back], "dy": a["dy"][..., back]})
    return {name: x[..., order] for name, x in out.items()}


def coarse_angles(a):
    given, x = a["rope"], a["x"]
    length, half = x.shape[1], x.shape[3] // 2
    f = right("rope.frequencies")({"head_dim": 2 * half, "length": length, "rope": given})["frequencies"]
    angle = np.arange(length, dtype=np.float32)[:, None] * f.astype(np.float32)[None, :]
    cos, sin = (t(angle).astype(x.dtype)[None, :, None, :] for t in (np.cos, np.sin))
    out = {}
    for name, z, turn in (("y", x, sin), ("dx", a["dy"], -sin)):
        one, two = z[..., :half], z[..., half:]
        out[name] = np.concatenate([one * cos - two * turn, two * cos + one * turn], axis=-1)
    return out


def short_mantissa(x):
    """x with ten bits after the leading one, as fast matrix units read it."""
    raw = x.astype(np.float32).view(np.uint32)
    return ((raw + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32).astype(x.dtype)


def linear_in_ten_bits(a):
    return right("layer.linear")(a | {"x": short_mantissa(a["x"]), "weight": short_mantissa(a["weight"])})


def bias_twice(a):
    out = right("layer.linear")(a)
    return out if a["bias"] is None else out | {"y": out["y"] + a["bias"]}


def overwritten_rows(a):
    out = right("layer.embedding")(a)
    dweight = np.zeros_like(a["weight"])
    dweight[a["tokens"]] = a["dy"]
    return out | {"dweight": dweight}


def silu_overflows(a):
    z = a["gate"]
    y = z / (1 + np.exp(-z)) * a["up"]
    s = np.exp(z) / (1 + np.exp(z))
    return right("layer.swiglu")(a) | {"y": y, "dgate": a["dy"] * a["up"] * s * (1 + z * (1 - s))}


def mean_over_all_rows(a):
    return right("layer.cross_entropy")(a | {"count": len(a["targets"])})


# --- pruning, kernels, files ---


def no_nudge(a):
    if not 0 <= a["sparsity"] < 1:
        return right("prune.magnitude")(a)
    size = np.abs(a["weights"]).reshape(-1)
    gone = np.argsort(size, kind="stable")[: int(a["sparsity"] * size.size)]
    return {"kept": np.setdiff1d(np.arange(size.size), gone)}


def last_of_a_row_lost(a):
    out = right("kernel.sparse")(a)
    if not len(a["positions"]):
        return out
    values = a["values"].copy()
    rows = a["positions"] // a["in"]
    values[np.append(rows[1:] != rows[:-1], True)] = 0
    return out | {"y": right("kernel.sparse")(a | {"values": values})["y"]}


def zeros_without_gradient(a):
    out = right("kernel.sparse")(a)
    return out | {"dvalues": np.where(a["values"] == 0, 0, out["dvalues"]).astype(out["dvalues"].dtype)}


def kernel_in_ten_bits(a):
    return right("kernel.sparse")(a | {name: short_mantissa(a[name]) for name in ("x", "dy", "values")})


def takes_anything(a):
    try:
        return right("kernel.sparse")(a)
    except SeftError:
        return {"y": a["x"], "dx": a["dy"], "dvalues": a["values"], "shape": ids([a["out"], a["in"]])}


def unverified(a):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.safetensors"
        path.write_bytes(a["raw"].tobytes())
        found = formats.read(path, verify=False)
        attributes = json.dumps(found.attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        tensors = {name: described(t) for name, t in found.tensors.items()}
    return {"kind": found.kind, "tensors": tensors, "attributes": attributes, "tied": found.tied}


def stored_zeros_lost(a):
    out = right("file.read")(a)
    for t in out["tensors"].values():
        size = len(t["bits"]) // max(len(t["columns"]), 1) if t["columns"] is not None else 0
        if not size:
            continue
        keep = t["bits"].reshape(-1, size).any(axis=1)
        t["row_pointers"] = np.concatenate([[0], np.cumsum(keep)])[t["row_pointers"]]
        t["columns"], t["bits"] = t["columns"][keep], t["bits"].reshape(-1, size)[keep].reshape(-1)
    return out


def trailing_bytes_cut(a):
    whole = len(a["raw"]) // 64 * 64
    return right("file.read")(a | {"raw": a["raw"][:whole]})


def written_with_spaces(a):
    raw = right("file.write")(a)["raw"].tobytes()
    n = int.from_bytes(raw[:8], "little")
    return {"raw": np.frombuffer((n + 64).to_bytes(8, "little") + raw[8 : 8 + n] + b" " * 64 + raw[8 + n :], np.uint8)}


# --- events of any rule ---


def n_for_the_budget_of_a_group(a):
    """Groups filled up to N, whatever they stored at load."""
    if a["pattern"] is None:
        return right("update.event")(a)
    parts = [part | {"budget": np.full_like(part["budget"], a["pattern"][0])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def looked_at_where_it_is_scored(a):
    """NaN in a gradient off what is scored by it goes unseen."""
    parts = [part | {"gradient": np.nan_to_num(part["gradient"])} for part in a["parts"]]
    return right("update.event")(a | {"parts": parts})


def gaps_in_the_dtype_of_scores(a):
    """The nearest boundary by gaps in the compute dtype."""
    found = right("select.pools")(a)
    scores, best = a["scores"], None
    for p, k in enumerate(a["counts"]):
        mine = np.sort(scores[a["pools"] == p])
        mine = mine[::-1] if a["largest"] else mine
        if not 0 < k < len(mine):
            continue
        inside, outside = mine[k - 1], mine[k]
        top = max(abs(inside), abs(outside))
        gap = abs(inside - outside) / top if top else top
        if best is None or gap < best[0]:
            best = gap, inside, outside
    names = ("gap", "inside", "outside")
    return (
        found
        if best is None
        else found | {n: np.array([x + 0], scores.dtype) for n, x in zip(names, best, strict=True)}
    )


def norm_in_the_dtype(a):
    """Squares and their sum in the compute dtype."""
    if not np.isfinite(a["gradient"]).all():
        return right("gradient.norm")(a)
    return {"norm": float(np.sqrt(np.sum(a["gradient"] * a["gradient"])))}


# --- models and runs ---


def loss_over_padding(a):
    out = right("model.step")(a)
    part = int((a["labels"][:, 1:] != -100).sum()) / a["labels"][:, 1:].size
    gradients = {name: (g * part).astype(g.dtype) for name, g in out["gradients"].items()}
    return out | {"loss": out["loss"] * part, "gradients": gradients}


def mean_of_means(a):
    n = a["rows_at_once"]
    parts = []
    for i in range(0, len(a["tokens"]), n):
        more = {k: None if a[k] is None else a[k][i : i + n] for k in ("tokens", "labels", "mask")}
        parts.append(right("model.step")(a | more))
    logits = np.concatenate([p["logits"] for p in parts])
    gradients = {k: np.mean([p["gradients"][k] for p in parts], axis=0) for k in parts[0]["gradients"]}
    return {"loss": float(np.mean([p["loss"] for p in parts])), "logits": logits, "gradients": gradients}


def untied(a):
    out = right("model.step")(a)
    if not a["config"].get("tie_word_embeddings"):
        return out
    name = "model.embed_tokens.weight"
    twin = a["config"] | {"tie_word_embeddings": False}
    split = right("model.step")(a | {"config": twin, "tensors": a["tensors"] | {"lm_head.weight": a["tensors"][name]}})
    return out | {"gradients": out["gradients"] | {name: split["gradients"][name]}}


def windows_everywhere(a):
    out = right("config.describe")(a)
    return out | {"windows": [a["config"].get("sliding_window")] * len(out["windows"])}


def targets_by_name(a):
    return right("config.describe")(a) | {"targets": sorted(right("config.describe")(a)["targets"])}


def refuses_nothing(a):
    try:
        return right("config.describe")(a)
    except Exception:  # noqa: BLE001
        return {"targets": [], "windows": [], "head_dim": 1, "kv_heads": 1}


def absolute_sums(a):
    mean = sum(abs(dy.T @ x) for dy, x in zip(a["dy"], a["x"], strict=True)) / a["steps"]
    held = set(a["delta"].tolist())
    base = set(a["base"].tolist())
    open_to = [p for p in range(mean.size) if p not in held and (a["scope"] == "all" or p in base)]
    flat = mean.reshape(-1)
    chosen = rules.largest([float(flat[p]) for p in open_to], open_to, min(a["n"], len(open_to)))
    return {"candidates": ids(chosen), "values": flat[chosen]}


def any_perplexity(a):
    try:
        return right("evaluate.perplexity")(a)
    except SeftError:
        return {"perplexity": math.inf, "targets": 0}


def settings(**new):
    return lambda a: right("train.run")(a | {"settings": a["settings"] | new})
