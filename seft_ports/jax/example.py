"""A pruned two-layer model, fine-tuned by SEFT under jit: `python -m seft_ports.jax.example`.

A dense teacher is pruned by magnitude to 30 % of its weights, and the pruned model learns to answer as the teacher.
A step, and a step with an event, are two compiled functions. Neither leaves more weights stored than there were.
"""

import jax

jax.config.update("jax_enable_x64", val=True)  # type: ignore[no-untyped-call]

from functools import partial  # noqa: E402
from typing import NamedTuple  # noqa: E402

import jax.numpy as jnp  # noqa: E402
from jax import Array  # noqa: E402

from seft_ports.jax import schedule  # noqa: E402
from seft_ports.jax.errors import refuse  # noqa: E402
from seft_ports.jax.event import Base, Delta, effective, evolve, initial_random, last_adapt, new_delta  # noqa: E402
from seft_ports.jax.optimizer import adamw, clip_factor  # noqa: E402
from seft_ports.jax.select import largest  # noqa: E402
from seft_ports.jax.sparse import dense, sparse_linear  # noqa: E402
from seft_ports.jax.topology import count, packed  # noqa: E402

__all__ = ["SHAPES", "Report", "main", "pruned", "train"]

SHAPES = ((48, 32), (16, 48))
KEPT, DENSITY, STEPS, EVERY, DROP, LR, ROWS, SEED = 0.3, 0.05, 120, 15, 0.2, 1e-2, 256, 7


class Layer(NamedTuple):
    """A matrix: its pruned base and its sparse update."""

    base: Base
    delta: Delta


class Report(NamedTuple):
    """Loss and stored weights after a step.

    Attributes:
        support: the number of stored weights of each matrix.
        budget: K of each matrix.
        grown_back: the number of weights of the updates outside the bases, over all matrices.
    """

    step: int
    loss: float
    support: tuple[int, ...]
    budget: tuple[int, ...]
    grown_back: int


@partial(jax.jit, static_argnames="n")
def pruned(weight: Array, n: int) -> Base:
    """Return the n weights of largest magnitude of a matrix."""
    positions = jnp.arange(weight.size)
    chosen = largest(jnp.abs(weight).reshape(-1), positions, n)
    largest_positions, values = packed(chosen, positions, weight.reshape(-1))
    return Base(largest_positions[:n], values[:n])


@partial(jax.jit, static_argnames="n")
def _layer(base: Base, number: Array, n: int) -> Layer:
    """Return a layer with n slots at random positions of its base."""
    chosen = initial_random(base.positions, n, SEED, number)
    return Layer(base, new_delta(packed(chosen, base.positions)[0][:n], base.values.dtype))


def _model(values: list[Array], whole: list[Array], layers: list[Layer], x: Array) -> Array:
    """Return the outputs. `whole` holds zero matrices: their gradients are the gradients of the whole weights."""
    for number, (layer, shape) in enumerate(zip(layers, SHAPES, strict=True)):
        x = jax.nn.relu(x) if number else x
        y = sparse_linear(x, layer.base, layer.delta.positions, values[number], shape)
        x = y + x @ whole[number].T if whole else y
    return x


def _loss(values: list[Array], whole: list[Array], layers: list[Layer], batch: tuple[Array, Array]) -> Array:
    x, y = batch
    return jnp.mean((_model(values, whole, layers, x) - y) ** 2)


def _updated(layers: list[Layer], gradients: list[Array], step: Array) -> list[Layer]:
    norm = jnp.sqrt(sum(jnp.sum(g.astype(jnp.float64) ** 2) for g in gradients))
    factor = clip_factor(norm, 1.0).astype(gradients[0].dtype)
    lr = schedule.learning_rate_at(step, STEPS, 10, LR, "cosine")
    pairs = zip(layers, gradients, strict=True)
    return [Layer(base, adamw(delta, g * factor, lr)) for (base, delta), g in pairs]


@jax.jit
def _step(layers: list[Layer], batch: tuple[Array, Array], step: Array) -> tuple[list[Layer], Array]:
    values = [layer.delta.values for layer in layers]
    loss, gradients = jax.value_and_grad(_loss)(values, [], layers, batch)
    return _updated(layers, gradients, step), loss


def _whole_gradients(layers: list[Layer], batch: tuple[Array, Array]) -> tuple[Array, tuple[list[Array], list[Array]]]:
    zeros = [jnp.zeros(shape, layers[0].base.values.dtype) for shape in SHAPES]
    values = [layer.delta.values for layer in layers]
    return jax.value_and_grad(_loss, argnums=(0, 1))(values, zeros, layers, batch)


@jax.jit
def _step_and_event(
    layers: list[Layer], batch: tuple[Array, Array], step: Array, budgets: list[Array]
) -> tuple[list[Layer], Array, Array]:
    loss, (gradients, whole) = _whole_gradients(layers, batch)
    after, troubles = [], []
    # EVT-002: an event uses the gradient from before the optimizer step, not clipped
    for (base, delta), g, budget in zip(_updated(layers, gradients, step), whole, budgets, strict=True):
        n_drop = schedule.drop_count(step, STEPS, DROP, count(delta.positions))
        event = evolve(base, delta, g, n_drop, delta.positions.shape[0], budget)
        after.append(Layer(event.base, event.delta))
        troubles.append(event.trouble)
    return after, loss, jnp.max(jnp.stack(troubles))


_gradients, _last = jax.jit(_whole_gradients), jax.jit(last_adapt)


@jax.jit
def _stored(layers: list[Layer]) -> tuple[list[Array], list[Array]]:
    """Return how many weights each matrix stores, and how many of them are in its base."""
    weights = [effective(base, delta.positions, delta.values) for base, delta in layers]
    return [count(weight.positions) for weight in weights], [count(layer.base.positions) for layer in layers]


def _report(step: int, loss: Array, layers: list[Layer], budgets: list[Array]) -> Report:
    support, of_base = (tuple(map(int, counts)) for counts in _stored(layers))
    return Report(step, float(loss), support, tuple(map(int, budgets)), sum(support) - sum(of_base))


@partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, int], dtype: str) -> Array:
    return jax.random.normal(key, shape, dtype) / shape[1] ** 0.5


def train(dtype: str = "float32") -> tuple[list[Report], list[Base]]:
    """Train, and return a report of the first step, each event and the last step, and the final weights."""
    random = jax.random.key(SEED)
    teacher, layers = [], []
    for number, (rows, columns) in enumerate(SHAPES):
        weight = _normal(jax.random.fold_in(random, STEPS + 1 + number), (rows, columns), dtype)
        base = pruned(weight, int(schedule.delta_budget(KEPT, rows, columns, rows * columns)))
        slots = int(schedule.delta_budget(DENSITY, rows, columns, len(base.values)))
        layers.append(_layer(base, jnp.int64(number), slots))
        teacher.append(weight)
    budgets = _stored(layers)[0]

    @jax.jit
    def batch(step: Array) -> tuple[Array, Array]:
        x = jax.random.normal(jax.random.fold_in(random, step), (ROWS, SHAPES[0][1]), dtype)
        return x, jax.nn.relu(x @ teacher[0].T) @ teacher[1].T

    reports = []
    for step in range(1, STEPS + 1):
        now = jnp.int64(step)
        if schedule.is_event(step, STEPS, EVERY):
            layers, loss, trouble = _step_and_event(layers, batch(now), now, budgets)
            refuse(trouble)
            reports.append(_report(step, loss, layers, budgets))
        else:
            layers, loss = _step(layers, batch(now), now)
            if step in (1, STEPS):
                reports.append(_report(step, loss, layers, budgets))
    # EVT-004
    final = []
    _, (_, whole) = _gradients(layers, batch(jnp.int64(STEPS)))
    for (base, delta), g, budget in zip(layers, whole, budgets, strict=True):
        weight, trouble = _last(base, delta, g, budget)
        refuse(trouble)
        final.append(weight)
    return reports, final


def main() -> None:
    """Train, and print loss and support."""
    reports, final = train()
    print("step   loss     stored (budget)        grown back")
    for r in reports:
        stored = "  ".join(f"{n} ({budget})" for n, budget in zip(r.support, r.budget, strict=True))
        print(f"{r.step:4d}   {r.loss:.4f}   {stored}   {r.grown_back}")
    counts = ", ".join(
        f"{int((dense(w.positions, w.values, s) != 0).sum())} of {s[0] * s[1]}"
        for w, s in zip(final, SHAPES, strict=True)
    )
    print(f"weights that are not zero in the end: {counts}")


if __name__ == "__main__":
    main()
