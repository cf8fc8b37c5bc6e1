"""Cases of numbers that overflow. A port must refuse them, because a later step may make them finite (TRN-019)."""

import numpy as np

from conformance.gen.numbers import Area, Numbers


def rows(area: Area) -> None:
    """Add rows of RMSNorm whose squares overflow in the dtype of the case, or that are infinite (LYR-015)."""
    n = Numbers(10, 6)
    shape = (3, 4)
    plain, weight, dy = n.lattice(shape, 3) + 4, np.ones(4), n.lattice(shape, 2)
    one_row = plain * np.array([[1.0], [2.0**70], [1.0]])
    infinite = plain.copy()
    infinite[2, 1] = np.inf
    for name, x, dtypes, purpose in (
        ("overflow", plain * 2.0**70, ("float32",), "r = 1 / sqrt(inf) = 0, and y = 0 with it"),
        ("overflow-row", one_row, ("float32",), "the first row alone looked at"),
        ("overflow-wide", plain * 2.0**520, ("float64",), "a check for the range of binary32"),
        ("infinite", infinite, ("float64", "float32"), "inf · 0 handed on as NaN"),
    ):
        inputs = {"x": x, "weight": weight, "eps": 2.0**-16, "dy": dy}
        area.add(f"refuse-{name}", "layer.rmsnorm", "LYR-015", purpose, inputs, refused="LYR-015", dtypes=dtypes)


def attention_scores(area: Area) -> None:
    """Add infinite scores and keys of attention, which must not pass for masked or distant ones (LYR-016)."""
    q, k, v = (np.ones((1, 3, 1, 2)) for _ in range(3))
    far, beyond = 2.0**70, k.copy()
    beyond[0, 1, 0, 0] = -np.inf
    for name, queries, keys, dtypes, purpose in (
        ("minus", q * far, k * -far, ("float32",), "a row of scores −∞ taken for one that sees nothing"),
        ("plus", q * far, k * far, ("float32",), "inf / inf handed on as NaN"),
        ("key", q, beyond, ("float64", "float32"), "an infinite key passed over as if it were far away"),
    ):
        inputs = {"q": queries, "k": keys, "v": v, "mask": None, "window": None, "dy": v}
        area.add(f"refuse-{name}", "layer.attention", "LYR-016", purpose, inputs, refused="LYR-016", dtypes=dtypes)
    for name, entry in (("nan", np.nan), ("infinite", np.inf)):
        keys = k.copy()
        keys[0, 0, 0, 1] = entry
        inputs = {"q": q, "k": keys, "v": v, "mask": np.array([[False, True, True]]), "window": None, "dy": v}
        purpose = "a key looked at only if a query sees it: padding may hold anything"
        area.add(f"refuse-padding-{name}", "layer.attention", "LYR-016", purpose, inputs, refused="LYR-016")
