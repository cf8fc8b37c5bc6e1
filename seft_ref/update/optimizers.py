"""Optimizers of a delta (chapter 9).

    delta = optimizer.step(delta, gradient, lr)
    seeds = optimizer.seeds(mean, mean_square, steps)     # the state of seeded slots (DLT-006); SM3 has no seeds

Every optimizer is a frozen record of its settings. Its arrays live in the delta; `keeps` names those in slot order.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, device, spread
from seft_ref.errors import ConfigError
from seft_ref.topology.csr import rows as rows_of
from seft_ref.update.delta import ADAMW_KEEPS, Delta


@dataclass(frozen=True, slots=True)
class AdamW:
    """AdamW with an age per slot (OPT-001); the defaults are OPT-003's."""

    beta1: float = 0.9
    """decay of the mean gradient"""
    beta2: float = 0.999
    """decay of the mean squared gradient"""
    eps: float = 1e-8
    """added to the root of the mean square"""
    weight_decay: float = 0.0
    """fraction of a value that a step subtracts, times the learning rate"""
    slot_warmup: int = 0
    """steps over which the learning rate of a new slot rises (OPT-010)"""

    keeps = ADAMW_KEEPS

    def step(self, delta: Delta, gradient: Float[Array, " d"], lr: float) -> Delta:
        """Return the delta after one step (OPT-001); a new slot takes a full first step at any step (OPT-005).

        Shapes  gradient (d,) in slot order
        Dtypes  all of the delta's dtype; ages int32
        Units   gradient is loss per unit of weight, clipped
        """
        xp = array_namespace(delta.values, gradient)
        age, m, v = _moments(self, delta, gradient)
        values = delta.values * (1.0 - lr * self.weight_decay)
        # OPT-002
        step_size, root = _per_age(
            age,
            values,
            # OPT-010
            lambda age: lr * min(1.0, age / max(self.slot_warmup, 1)) / (1.0 - self.beta1**age),
            lambda age: math.sqrt(1.0 - self.beta2**age),
        )
        values = values - step_size * (m / (xp.sqrt(v) / root + self.eps))
        return replace(delta, values=values, kept={**delta.kept, **_named(m, v, age)})

    def seeds(self, mean: Float[Array, " n"], square: Float[Array, " n"], steps: int) -> dict[str, Array]:
        """Return the moments and age that new slots would have if they had been there during the window (DLT-006).

        Shapes  mean (n,) ḡ of each new slot, square (n,) its mean g²
        steps   A, the steps of the window
        """
        return _adamw_seeds(self, mean, square, steps, steps)


@dataclass(frozen=True, slots=True)
class SpielAdamW:
    """SpIEL's AdamW (OPT-006): the bias correction divides eps too, and decay comes after the update."""

    beta1: float = 0.9
    """decay of the mean gradient"""
    beta2: float = 0.999
    """decay of the mean squared gradient"""
    eps: float = 1e-8
    """added to the root of the mean square"""
    weight_decay: float = 0.0
    """fraction of a value that a step subtracts, times the learning rate"""

    keeps = ADAMW_KEEPS

    def step(self, delta: Delta, gradient: Float[Array, " d"], lr: float) -> Delta:
        """Return the delta after one step (OPT-006). Shapes, dtypes and units as AdamW's."""
        xp = array_namespace(delta.values, gradient)
        age, m, v = _moments(self, delta, gradient)
        c1, c2 = _per_age(age, m, lambda age: 1.0 - self.beta1**age, lambda age: math.sqrt(1.0 - self.beta2**age))
        values = delta.values - lr * (m / (((xp.sqrt(v) + self.eps) * c1) / c2))
        values = values - (lr * self.weight_decay) * values
        return replace(delta, values=values, kept={**delta.kept, **_named(m, v, age)})

    def seeds(self, mean: Float[Array, " n"], square: Float[Array, " n"], steps: int) -> dict[str, Array]:
        """Return the same moments as AdamW's `seeds`, and an age that is one step lower (DLT-006)."""
        return _adamw_seeds(self, mean, square, steps, steps - 1)


@dataclass(frozen=True, slots=True)
class Sgd:
    """SGD with momentum (OPT-007)."""

    momentum: float = 0.9
    """decay of the sum of gradients"""
    weight_decay: float = 0.0
    """fraction of a value that a step subtracts, times the learning rate"""

    keeps = ("momentum",)

    def step(self, delta: Delta, gradient: Float[Array, " d"], lr: float) -> Delta:
        """Return the delta after one step (OPT-007). Shapes, dtypes and units as AdamW's."""
        values = delta.values * (1.0 - lr * self.weight_decay)
        u = self.momentum * delta.kept["momentum"] + gradient
        return replace(delta, values=values - lr * u, kept={**delta.kept, "momentum": u})

    def seeds(self, mean: Float[Array, " n"], square: Float[Array, " n"], steps: int) -> dict[str, Array]:
        """Return the momentum that new slots would have if every step had the gradient `mean` (DLT-006)."""
        return {"momentum": mean * ((1.0 - self.momentum**steps) / (1.0 - self.momentum))}


@dataclass(frozen=True, slots=True)
class Sm3:
    """SM3-II on the slots of a matrix, with accumulators for rows and columns (OPT-008)."""

    eps: float = 1e-8
    """added to the accumulator under the root"""
    weight_decay: float = 0.0
    """fraction of a value that a step subtracts, times the learning rate"""

    keeps = ()

    def step(self, delta: Delta, gradient: Float[Array, " d"], lr: float) -> Delta:
        """Return the delta after one step (OPT-008). Shapes, dtypes and units as AdamW's."""
        xp = array_namespace(delta.values, gradient)
        if not delta.topology.nnz:
            return delta
        row, column = rows_of(delta.topology), xp.astype(delta.topology.indices, xp.int64)
        r, c = delta.shared["rows"], delta.shared["columns"]
        nu = xp.minimum(xp.take(r, row), xp.take(c, column)) + gradient * gradient
        values = delta.values - lr * (gradient / xp.sqrt(nu + self.eps))
        values = values - (lr * self.weight_decay) * values
        shared = {"rows": _raised(r, row, nu), "columns": _raised(c, column, nu)}
        return replace(delta, values=values, shared={**delta.shared, **shared})


Optimizer = AdamW | SpielAdamW | Sgd | Sm3

OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": AdamW, "spiel-adamw": SpielAdamW, "sgd": Sgd, "sm3": Sm3}


def optimizer_named(name: str, settings: Mapping[str, float]) -> Optimizer:
    """Return the optimizer of that name, with some of its settings changed.

    Raises:
        ConfigError: OPT-001 for an unknown name, TRN-008 for a setting that it does not have.
    """
    if name not in OPTIMIZERS:
        raise ConfigError("OPT-001", f"unknown optimizer {name!r}; choose one of {', '.join(OPTIMIZERS)}")
    kind = OPTIMIZERS[name]
    for key in settings:
        if key not in kind.__dataclass_fields__:
            fields = ", ".join(kind.__dataclass_fields__)
            raise ConfigError("TRN-008", f"optimizer {name} has no setting {key}; it has {fields}")
    return kind(**settings)  # type: ignore[arg-type]  # slot_warmup is an integer


def name_of(optimizer: Optimizer) -> str:
    """Return the name of an optimizer."""
    return next(name for name, kind in OPTIMIZERS.items() if type(optimizer) is kind)


def shares_of(optimizer: Optimizer, shape: tuple[int, int]) -> dict[str, int]:
    """Return names and lengths of the arrays that an optimizer keeps for a whole matrix (OPT-008)."""
    return {"rows": shape[0], "columns": shape[1]} if isinstance(optimizer, Sm3) else {}


def clip_factor(sum_of_squares: float, max_norm: float) -> float:
    """Return the factor by which clipping multiplies gradients; it is 1 if max_norm is 0 (OPT-004)."""
    if max_norm == 0:
        return 1.0
    return min(1.0, max_norm / (math.sqrt(sum_of_squares) + 1e-6))


def _moments(settings: AdamW | SpielAdamW, delta: Delta, gradient: Array) -> tuple[Array, Array, Array]:
    """Return age, m and v of every slot after one more gradient."""
    m = settings.beta1 * delta.kept["first_moment"] + (1.0 - settings.beta1) * gradient
    v = settings.beta2 * delta.kept["second_moment"] + (1.0 - settings.beta2) * (gradient * gradient)
    return delta.kept["age"] + 1, m, v


def _named(m: Array, v: Array, age: Array) -> dict[str, Array]:
    return {"first_moment": m, "second_moment": v, "age": age}


def _adamw_seeds(settings: AdamW | SpielAdamW, mean: Array, square: Array, steps: int, age: int) -> dict[str, Array]:
    xp = array_namespace(mean)
    return {
        "first_moment": mean * (1.0 - settings.beta1**steps),
        "second_moment": square * (1.0 - settings.beta2**steps),
        "age": xp.full(mean.shape, age, dtype=xp.int32, device=device(mean)),
    }


def _per_age(
    age: Int[Array, " d"], like: Float[Array, " d"], *scalars: Callable[[int], float]
) -> list[Float[Array, " d"]]:
    """Return for each of the functions `scalars` an array of its values at the ages of all slots (OPT-002).

    A function is evaluated in binary64, once for each age that occurs, and rounded once to the dtype of `like`.
    """
    xp = array_namespace(age, like)
    if not age.shape[0]:
        return [xp.zeros_like(like) for _ in scalars]
    # few ages occur, because slots that came with the same event have the same age
    in_order = xp.sort(age, stable=False)
    one = xp.ones((1,), dtype=xp.bool, device=device(age))
    occurring = xp.astype(in_order[xp.concat([one, in_order[1:] != in_order[:-1]])], xp.int64)
    ages = [int(occurring[i]) for i in range(occurring.shape[0])]
    slot_ages = xp.astype(age, xp.int64)
    arrays = []
    for scalar in scalars:
        values = xp.asarray([scalar(a) for a in ages], dtype=like.dtype, device=device(like))
        arrays.append(xp.take(spread(values, occurring, ages[-1] + 1), slot_ages))
    return arrays


def _raised(accumulator: Float[Array, " n"], index: Int[Array, " d"], values: Float[Array, " d"]) -> Float[Array, " n"]:
    """Return accumulator with entry i raised to the largest value whose index is i; values are not negative."""
    xp = array_namespace(accumulator, index, values)
    # sort by index and then by value, so that the last entry of each index is its largest
    order = xp.argsort(values, stable=True)
    order = xp.take(order, xp.argsort(xp.take(index, order), stable=True))
    index, values = xp.take(index, order), xp.take(values, order)
    n = accumulator.shape[0]
    numbers = xp.arange(n, dtype=index.dtype, device=device(index))
    ends = xp.astype(xp.searchsorted(index, numbers, side="right"), xp.int64)
    last = xp.where(ends > 0, ends - 1, xp.zeros_like(ends))
    present = xp.take(index, last) == numbers
    return xp.where(present, xp.maximum(accumulator, xp.take(values, last)), accumulator)
