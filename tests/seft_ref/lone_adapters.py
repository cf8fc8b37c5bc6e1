"""An adapter beside one weight, for tests: drawn, run, and worked out once more on whole matrices."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seft_ref.adapters.frozen import frozen
from seft_ref.adapters.lora import Lora, lora_backward, lora_forward, lora_merge
from seft_ref.adapters.sparsepeft import sparsepeft_backward, sparsepeft_forward, sparsepeft_merge
from seft_ref.adapters.spp import Spp, spp_backward, spp_forward, spp_merge
from seft_ref.topology.csr import from_flat

ADAPTERS: dict[str, tuple[Any, Any, Any]] = {
    "lora": (lora_forward, lora_backward, lambda base, adapter, _: lora_merge(base, adapter)),
    "spp": (spp_forward, spp_backward, lambda base, adapter, _: spp_merge(base, adapter)),
    "sparsepeft": (sparsepeft_forward, sparsepeft_backward, sparsepeft_merge),
}
"""Forward, backward, and merge with a kernel set as its third argument."""


@dataclass(frozen=True)
class Case:
    """Arrays of any library; c is SPP's, b the others'."""

    kind: str
    shape: tuple[int, int]
    positions: Any
    values: Any
    bias: Any
    a: Any
    b: Any
    c: Any
    alpha: float
    rank: int
    x: Any
    dy: Any

    def but(self, **changes):
        return replace(self, **changes)

    def fields(self):
        """Names of what the adapter is made of."""
        return {"a", "alpha"} | ({"c", "rank"} if self.kind == "spp" else {"b"})

    def on(self, backend):
        names = ("positions", "values", "bias", "a", "b", "c", "x", "dy")
        return replace(self, **{name: backend.array(getattr(self, name)) for name in names})

    def as_dtype(self, dtype):
        names = ("values", "bias", "a", "b", "c", "x", "dy")
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in names})

    def at_start(self):
        return replace(self, b=self.b * 0.0, c=self.c * 0.0)

    @property
    def scale(self):
        return self.alpha / (self.rank if self.kind == "spp" else self.a.shape[0])

    def topology(self):
        return from_flat(self.shape, self.positions)

    def base(self, kernels):
        return frozen(self.topology(), self.values, kernels, self.bias)

    def adapter(self):
        if self.kind == "spp":
            return Spp(self.a, self.c, self.alpha, self.rank)
        return Lora(self.a, self.b, self.alpha)

    def moving(self):
        """What is differentiated, by name."""
        return {"x": self.x, "a": self.a} | ({"c": self.c} if self.kind == "spp" else {"b": self.b})

    def weight(self, values=None):
        """Return the weight, or other values on its support, as a whole NumPy matrix."""
        values = self.values if values is None else values
        whole = np.zeros(self.shape[0] * self.shape[1], dtype=values.dtype)
        whole[self.positions] = values
        return whole.reshape(self.shape)

    def run(self, kernels):
        forward, backward, merge = ADAPTERS[self.kind]
        base, adapter = self.base(kernels), self.adapter()
        y, cache = forward(self.x, base, adapter, kernels)
        names = ("dx", "da", "dc" if self.kind == "spp" else "db")
        merged = merge(base, adapter, kernels)
        return {"y": y, "merged": merged} | dict(zip(names, backward(self.dy, cache), strict=True))

    def expected(self):
        """Return what `run` does, on whole NumPy matrices."""
        w, s = self.weight(), self.scale
        g = self.dy.T @ self.x
        stored = self.weight(np.ones(len(self.positions)))
        if self.kind == "spp":
            n_bands, n_out = self.a.shape[0], self.shape[0]
            spread = np.stack([self.a[o * n_bands // n_out] for o in range(n_out)])
            change = s * spread * self.c[:, None] * w
            da = np.zeros(self.a.shape)
            for o in range(n_out):
                da[o * n_bands // n_out] += s * g[o] * self.c[o] * w[o]
            found = {"da": da, "dc": s * np.sum(g * spread * w, axis=1)}
        else:
            mask = np.ones(self.shape) if self.kind == "lora" else stored
            change = s * (self.b @ self.a) * mask
            found = {"da": s * self.b.T @ (g * mask), "db": s * (g * mask) @ self.a.T}
        merged = w + change
        found |= {"y": self.x @ merged.T + self.bias, "dx": self.dy @ merged}
        return found | {"merged": merged if self.kind == "lora" else merged.reshape(-1)[self.positions]}


def case_of(kind, name):
    """Return a case in NumPy float64, all numbers exact in float32; a fifth of what is stored is zero."""
    rng = np.random.default_rng([3, *kind.encode(), *name.encode()])

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    n_out, n_in, n_rows, n_tokens = {
        "odd": (12, 7, 3, 5),
        "one-token": (5, 11, 1, 1),
        "no-tokens": (6, 5, 2, 0),
        "empty-rows": (32, 9, 16, 4),
    }.get(name, (6, 7, 2, 4))
    stored = rng.random((n_out, n_in)) < {"all-stored": 1.1, "none-stored": -1.0}.get(name, 0.35)
    if name == "empty-rows":
        stored[::3] = False
    positions = np.flatnonzero(stored)
    values = draw(len(positions))
    values[::5] = 0.0
    return Case(
        kind=kind,
        shape=(n_out, n_in),
        positions=positions,
        values=values,
        bias=draw(n_out),
        a=draw(n_rows, n_in),
        b=draw(n_out, n_rows),
        c=draw(n_out),
        alpha=2.5,
        rank=4,
        x=draw(n_tokens, n_in),
        dy=draw(n_tokens, n_out),
    )


def weights_of(n_out, n_in, seed):
    """Return a matrix without zeros or ties, and sums of squares of its inputs."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n_out, n_in)).astype(np.float32).astype(np.float64)
    return w, rng.integers(1, 9, n_in).astype(np.float64) ** 2
