"""Cases of attention with keys that a query does not see."""

import numpy as np

from conformance.cases.case import Bound
from conformance.gen.layers import differentiate
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import layers
from conformance.oracle.tape import Var, gradients


def unseen() -> Area:
    """Return cases of unseen keys with large scores, and of seen keys with very low ones (LYR-007 to LYR-009)."""
    area = Area("unseen", "binary64 tape, checked by complex step")
    n = Numbers(120, 1)
    pad = np.array([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0]])
    for name, rows, far, mask, window, purpose in (
        ("later", 1, 4, None, None, "the largest score taken over keys that come later"),
        ("padding", 2, 2, pad, None, "the largest score taken over padding"),
        ("window", 1, 0, None, 2, "the largest score taken over keys that the window has left"),
    ):
        q, k, v = (abs(n.real((rows, 5, heads, 4))) + 0.5 for heads in (2, 1, 1))
        # the scores of this key are larger by thousands; if it were seen, all other keys would get the weight 0
        k[:, far] *= 2.0**12
        v, dy = v - 1.0, n.real(q.shape)
        y, grads = differentiate(lambda a, b, c, m=mask, w=window: layers.attention(a, b, c, m, w), [q, k, v], dy)
        inputs = {"q": q, "k": k, "v": v, "mask": None if mask is None else mask.astype(bool), "window": window}
        answer = dict(zip(("y", "dq", "dk", "dv"), (y, *grads), strict=True))
        clauses = "LYR-007 LYR-008 LYR-009 NUM-004"
        # if one key has all the weight, dq and dk cancel, so that their bounds are the size of their terms
        bounds = {"dq": Bound(np.asarray(2.0**12), 1), "dk": Bound(np.asarray(1.0), 1)}
        area.add(name, "layer.attention", clauses, purpose, inputs | {"dy": dy}, answer, bounds=bounds)
    _deep(area, n)
    return area


def _deep(area: Area, n: Numbers) -> None:
    """Add scores of −2¹¹⁰, which is below the numbers that libraries use as −∞."""
    for name, mask, window in (("deep", None, None), ("deep-window", None, 2), ("deep-padding", [[1, 0, 1, 1]], None)):
        q, k = n.lattice((1, 4, 1, 4), 2), n.lattice((1, 4, 1, 4), 2)
        v, dy = n.real((1, 4, 1, 4)), n.real((1, 4, 1, 4))
        q[..., 1:] = 0.0
        q[..., 0], k[..., 0] = 2.0**55, -(2.0**56)
        mask_array = None if mask is None else np.array(mask)
        queries, keys, values = Var(q), Var(k), Var(v)
        out = layers.attention(queries, keys, values, mask_array, window)
        grads = gradients(out, dy, [queries, keys, values])
        inputs = {
            "q": q,
            "k": k,
            "v": v,
            "mask": None if mask_array is None else mask_array.astype(bool),
            "window": window,
        }
        answer = dict(zip(("y", "dq", "dk", "dv"), (out.value, *grads), strict=True))
        purpose = "a number such as −1e30 for what is not seen, which a visible score may lie below"
        bounds = {"dq": Bound(np.asarray(2.0**56), 1), "dk": Bound(np.asarray(2.0**55), 1)}
        clauses = "LYR-007 LYR-008 LYR-009 NUM-004"
        area.add(name, "layer.attention", clauses, purpose, inputs | {"dy": dy}, answer, bounds=bounds)


AREAS = (unseen,)
