"""Cases of chapters 2 to 5 for what the other cases did not reach: what is not seen, what is long, what is held."""

from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.gen import tiny
from conformance.gen.kernels import products_of
from conformance.gen.layers import differentiate
from conformance.gen.models import tensors_of
from conformance.gen.numbers import Area, Array, Numbers, ids
from conformance.oracle import generate, layers
from conformance.oracle.model import Config, Decoder
from conformance.oracle.tape import Var, gradients

_SLIDES: Config = tiny.CONFIG | {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "sliding_attention"],
    "use_sliding_window": True,
    "max_window_layers": 0,
    "sliding_window": 2,
}


def unseen() -> Area:
    """LYR-007 to LYR-009: keys that a query does not see, and scores below every number that could mark them."""
    area = Area("unseen", "binary64 tape, checked by complex step")
    n = Numbers(120, 1)
    pad = np.array([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0]])
    for name, rows, far, mask, window, purpose in (
        ("later", 1, 4, None, None, "the largest score taken over keys that come later"),
        ("padding", 2, 2, pad, None, "the largest score taken over padding"),
        ("window", 1, 0, None, 2, "the largest score taken over keys that the window has left"),
    ):
        q, k, v = (abs(n.real((rows, 5, heads, 4))) + 0.5 for heads in (2, 1, 1))
        # scores of this key lie thousands above all others: beside them those are exp(−∞) = 0
        k[:, far] *= 2.0**12
        v, dy = v - 1.0, n.real(q.shape)
        y, found = differentiate(lambda a, b, c, m=mask, w=window: layers.attention(a, b, c, m, w), [q, k, v], dy)
        given = {"q": q, "k": k, "v": v, "mask": None if mask is None else mask.astype(bool), "window": window}
        answer = dict(zip(("y", "dq", "dk", "dv"), (y, *found), strict=True))
        clauses = "LYR-007 LYR-008 LYR-009 NUM-004"
        # where one key has all the weight, dq and dk cancel: judged by the size of what cancels
        bounds = {"dq": Bound(np.asarray(2.0**12), 1), "dk": Bound(np.asarray(1.0), 1)}
        area.add(name, "layer.attention", clauses, purpose, given | {"dy": dy}, answer, bounds=bounds)
    _deep(area, n)
    return area


def _deep(area: Area, n: Numbers) -> None:
    """Every score is −2¹¹⁰, further down than the numbers that libraries use for −∞."""
    for name, mask, window in (("deep", None, None), ("deep-window", None, 2), ("deep-padding", [[1, 0, 1, 1]], None)):
        q, k = n.lattice((1, 4, 1, 4), 2), n.lattice((1, 4, 1, 4), 2)
        v, dy = n.real((1, 4, 1, 4)), n.real((1, 4, 1, 4))
        q[..., 1:] = 0.0
        q[..., 0], k[..., 0] = 2.0**55, -(2.0**56)
        told = None if mask is None else np.array(mask)
        queries, keys, values = Var(q), Var(k), Var(v)
        out = layers.attention(queries, keys, values, told, window)
        found = gradients(out, dy, [queries, keys, values])
        given = {"q": q, "k": k, "v": v, "mask": None if told is None else told.astype(bool), "window": window}
        answer = dict(zip(("y", "dq", "dk", "dv"), (out.value, *found), strict=True))
        purpose = "a number such as −1e30 for what is not seen, which a visible score may lie below"
        bounds = {"dq": Bound(np.asarray(2.0**56), 1), "dk": Bound(np.asarray(2.0**55), 1)}
        clauses = "LYR-007 LYR-008 LYR-009 NUM-004"
        area.add(name, "layer.attention", clauses, purpose, given | {"dy": dy}, answer, bounds=bounds)


def _model(area: Area, name: str, clauses: str, purpose: str, config: Config, n: Numbers, **more: Any) -> None:
    """Add a forward and backward of a model over given rows."""
    tensors = tensors_of(config, n, 0.6)
    tokens, mask = more.pop("tokens"), more.pop("mask", None)
    loss, logits, grads = Decoder(config, tensors).loss_and_gradients(tokens, tokens, mask)
    given = {"config": config, "tensors": tensors, "tokens": tokens, "labels": tokens, "mask": mask}
    given |= {"rows_at_once": len(tokens)} | more
    answer = {"loss": loss, "logits": logits, "gradients": grads}
    area.add(name, "model.step", f"{clauses} GRD-001 NUM-004", purpose, given, answer)


def long() -> Area:
    """LYR-013 and MDL-008: more queries than are attended at once, and blocks that are computed twice."""
    area = Area("long", "binary64 decoder")
    n = Numbers(121, 1)
    mask = np.ones((2, 6), dtype=bool)
    mask[1, :2] = False
    purpose = "the forward that a backward repeats, with the window, mask or weights of another block"
    more = {"tokens": n.integers((2, 6), 0, 4), "mask": mask, "recompute": 1}
    _model(area, "again", "MDL-008 MDL-003 LYR-008 MDL-001", purpose, _SLIDES, n, **more)
    narrow = {"vocab_size": 2, "max_position_embeddings": 600}
    length = 515
    seen = np.ones((1, length), dtype=bool)
    seen[0, [0, 254, 257, 300, 513]] = False
    purpose = "a block of queries that misses the first or last key it sees, or takes the mask of another stretch"
    config = _SLIDES | narrow | {"sliding_window": 3, "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    _model(
        area, "masked", "LYR-013 LYR-008 MDL-003", purpose, config, n, tokens=n.integers((1, length), 0, 1), mask=seen
    )
    for name, window, parts in (("read", 2, (40, 513, 2)),):
        config = _SLIDES | narrow | {"sliding_window": window}
        tensors, tokens = tensors_of(config, n, 0.6), n.integers((1, sum(parts)), 0, 1)
        given = {"config": config, "tensors": tensors, "tokens": tokens, "parts": list(parts)}
        answer = {"logits": generate.logits_behind(config, tensors, tokens, parts)}
        purpose = "queries of a long reading counted from its first, not from that of the context"
        area.add(name, "generate.read", "GEN-001 LYR-013 LYR-008 NUM-004", purpose, given, answer)
    return area


def held() -> Area:
    """KRN-015, KRN-016 and TOP-005: other ways to hold a matrix, of which no result may tell."""
    area = Area("held", "sums of single products by fsum")
    n = Numbers(122, 1)
    shape = (5, 8)
    at = n.subset(40, 22)
    low = n.integers(22, -7, 7) * 2.0**-24
    for name, kind, values, x, purpose in (
        ("float16", "float16", n.lattice(22, 1500), n.lattice((3, 8)), "numbers cut to fewer than 11 bits"),
        ("float16-subnormal", "float16", low, n.lattice((3, 8)) * 2.0**12, "subnormal numbers flushed to zero"),
        ("bfloat16-range", "bfloat16", n.lattice(22, 255) * 2.0**-100, n.real((3, 8)), "the range of float16"),
    ):
        _product(area, name, "KRN-015", purpose, shape, at, values, x, n, {"held": kind})
    live = n.subset(22, 7)
    for name, kind, chosen, purpose in (
        ("split", "float16", live, "live values rounded to sixteen bits, or added to what they replace"),
        ("split-all", "float16", list(range(22)), "a frozen part of zeros alone"),
        ("split-none", "bfloat16", [], "a live part that stores nothing"),
    ):
        values = n.lattice(22, 100) / 8
        values[chosen] = n.real(len(chosen))
        more = {"held": kind, "live": ids(chosen)}
        _product(area, name, "KRN-015 KRN-016", purpose, shape, at, values, n.real((3, 8)), n, more)
    for name, kind, slots in (("some", "float16", live[1::2]), ("all", "bfloat16", live), ("none", "float16", [])):
        values, new = n.lattice(22, 100) / 8, n.lattice(len(slots), 100) / 32
        after, dense = values.copy(), np.zeros(40)
        after[slots] = new
        dense[at] = after
        given = {"out": 5, "in": 8, "positions": ids(at), "values": values, "slots": ids(slots), "new": new}
        given |= {"x": np.eye(8), "held": kind, "live": ids(live)}
        purpose = "a live value stored into the frozen part, or added to what is there"
        clauses, answer = "KRN-012 KRN-016 KRN-011", {"y": dense.reshape(5, 8).T.copy()}
        area.add(f"store-{name}", "kernel.store", clauses, purpose, given, answer)
    _patterns(area, n)
    return area


def _product(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    shape: tuple[int, int],
    at: list[int],
    values: Array,
    x: Array,
    n: Numbers,
    more: dict[str, Any],
) -> None:
    dy = n.real((len(x), shape[0]))
    answer, bounds = products_of(shape, at, values, x, dy)
    given = {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": x, "dy": dy} | more
    clauses = f"{clauses} KRN-001 KRN-002 KRN-003 KRN-006"
    area.add(name, "kernel.sparse", clauses, purpose, given, answer, bounds=bounds)


def _patterns(area: Area, n: Numbers) -> None:
    """TOP-005: groups as wide as a mask of some bytes holds, one wider, and wider than any."""
    for kept, of in ((1, 2), (4, 8), (3, 9), (5, 16), (2, 17), (9, 32), (4, 33), (8, 62), (3, 63), (5, 64), (2, 65)):
        at: list[int] = []
        for group in range(4):
            # the first group stores nothing, the last its first and last column
            columns = [] if group == 0 else n.subset(of, kept) if group < 3 else sorted({0, of - 1})[-kept:]
            at += [group * of + column for column in columns]
        indptr = [0, sum(p < 2 * of for p in at), len(at)]
        given = {"out": 2, "in": 2 * of, "positions": ids(at), "pattern": ids([kept, of])}
        answer = {"indptr": ids(indptr), "indices": ids(p % (2 * of) for p in at)}
        purpose = "a group wider than its mask: its last columns lost, negative, or refused"
        area.add(f"groups-{kept}-{of}", "topology.of", "TOP-005 TOP-001 TOP-002", purpose, given, answer)
    for name, pattern, width, stored, purpose in (
        ("full", (2, 4), 8, [0, 2, 5, 6, 7], "a group that stores more than N is taken"),
        ("full-behind", (2, 4), 8, [9, 10, 11], "groups of the first row alone are counted"),
        ("wide-full", (2, 65), 65, [0, 1, 64, 70], "a group wider than a mask that stores more than N is taken"),
        ("odd", (2, 4), 6, [0, 4], "rows that M does not divide are taken"),
        ("narrow", (2, 4), 2, [0, 1], "rows shorter than a group are taken"),
        ("wide-odd", (2, 65), 66, [0, 65], "rows that a wide M does not divide are taken"),
    ):
        given = {"out": 2, "in": width, "positions": ids(stored), "pattern": ids(pattern)}
        area.add(f"refuse-group-{name}", "topology.of", "TOP-005", purpose, given, refused="TOP-005")


AREAS = (unseen, long, held)
