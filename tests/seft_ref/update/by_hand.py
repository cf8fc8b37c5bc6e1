"""The update rules once more, in dictionaries and loops written from SPEC.md, and libraries to run on."""

import math
from dataclasses import dataclass, field
from typing import Any

import array_api_strict
import numpy as np
from hypothesis import settings

from seft_ref.arrays.library import from_numpy, to_numpy
from seft_ref.topology.csr import from_flat
from seft_ref.update.delta import Base, Delta

RULES = settings(derandomize=True, deadline=None, max_examples=40, database=None)


@dataclass(frozen=True)
class Library:
    """An array library, a dtype and a device."""

    name: str
    like: Any

    @property
    def dtype(self) -> type:
        """The dtype as a NumPy scalar type, in which a loop rounds as the arrays do."""
        return to_numpy(self.like).dtype.type

    def floats(self, values) -> Any:
        return from_numpy(np.asarray(list(values), dtype=self.dtype), self.like)

    def ints(self, values) -> Any:
        return from_numpy(np.asarray(list(values), dtype=np.int64), self.like)

    def topology(self, shape: tuple[int, int], positions) -> Any:
        return from_flat(shape, self.ints(sorted(positions)))


LIBRARIES = [
    Library("numpy-float64", np.zeros(1, dtype=np.float64)),
    Library("numpy-float32", np.zeros(1, dtype=np.float32)),
    Library(
        "strict-device1",
        array_api_strict.zeros(1, dtype=array_api_strict.float32, device=array_api_strict.Device("device1")),
    ),
]
F64, F32 = LIBRARIES[:2]


def library_id(library: Library) -> str:
    return library.name


def listed(x: Any) -> list:
    """An array as a list of Python numbers."""
    return to_numpy(x).tolist()


def bits(x: Any) -> bytes:
    """The bytes of an array: -0.0 and +0.0 differ here, equal NaNs do not."""
    return to_numpy(x).tobytes()


PARTS = ("values", "first_moment", "second_moment", "age")
"""What a delta holds of a slot under AdamW."""


def part_of(delta: Delta, part: str) -> Any:
    """The values of a delta, or what it keeps under a name."""
    return delta.values if part == "values" else delta.kept[part]


def ranked(scores, ids, k: int, *, largest: bool = False) -> list[int]:
    """The k smallest (or largest) by score, ties to the lower id, in order of id (SEL-001 to SEL-003)."""
    order = sorted((-float(score) if largest else float(score), i) for score, i in zip(scores, ids, strict=True))
    return sorted(i for _, i in order[:k])


@dataclass
class Slot:
    """One slot of a delta."""

    phi: float = 0.0
    m: float = 0.0
    v: float = 0.0
    age: int = 0


@dataclass
class Matrix:
    """One target matrix: flat position to base value, flat position to slot."""

    shape: tuple[int, int]
    base: dict[int, float]
    slots: dict[int, Slot] = field(default_factory=dict)

    def support(self) -> set[int]:
        return set(self.base) | set(self.slots)

    def weight(self, position: int, dtype: type) -> Any:
        slot = self.slots.get(position)
        return dtype(self.base.get(position, 0.0)) + dtype(slot.phi if slot else 0.0)

    def arrays(self, library: Library) -> tuple[Base, Delta]:
        at = sorted(self.slots)
        base = Base(library.topology(self.shape, self.base), library.floats(self.base[p] for p in sorted(self.base)))
        ages = from_numpy(np.asarray([self.slots[p].age for p in at], dtype=np.int32), library.like)
        phi, m, v = (library.floats(getattr(self.slots[p], name) for p in at) for name in ("phi", "m", "v"))
        kept = {"first_moment": m, "second_moment": v, "age": ages}
        return base, Delta(library.topology(self.shape, at), phi, kept)


@dataclass
class Outcome:
    """What an event did."""

    after: Matrix
    dropped: list[int]
    grown: list[int]
    cancelled: list[int]
    pruned: list[int]


def event_by_hand(
    before: Matrix,
    gradient,
    dtype: type,
    *,
    n_drop: int,
    delta_budget: int,
    budget: int,
    scope: str = "anywhere",
    adapts: bool = True,
    exempts: bool = True,
) -> Outcome:
    """Drop, grow, adapt (DROP-001, GROW-001 to GROW-003, ADPT-001 to ADPT-004), one position at a time."""
    base, slots = dict(before.base), {p: Slot(s.phi, s.m, s.v, s.age) for p, s in before.slots.items()}
    eta = sorted(slots)
    dropped = ranked([abs(slots[p].phi) for p in eta], eta, n_drop)
    kept = set(eta) - set(dropped)
    everywhere = range(before.shape[0] * before.shape[1])
    candidates = [p for p in everywhere if p not in kept and (scope == "anywhere" or p in base)]
    wanted = n_drop + (delta_budget - len(eta))
    grown = ranked([abs(gradient[p]) for p in candidates], candidates, min(wanted, len(candidates)), largest=True)
    cancelled = sorted(set(grown) & set(dropped))
    fresh = sorted(set(grown) - set(dropped))
    for p in set(dropped) - set(cancelled):
        del slots[p]
    for p in fresh:
        slots[p] = Slot()
    now = Matrix(before.shape, base, slots)
    pruned = prune_by_hand(now, gradient, dtype, budget, fresh if exempts else []) if adapts else []
    return Outcome(now, dropped, fresh, cancelled, pruned)


def prune_by_hand(now: Matrix, gradient, dtype: type, budget: int, exempt) -> list[int]:
    """Take the least sensitive positions out of base and delta until at most `budget` are stored."""
    support = sorted(now.support())
    prunable = [p for p in support if p not in set(exempt)]
    excess = max(0, len(support) - budget)
    scores = [abs(dtype(gradient[p]) * now.weight(p, dtype)) for p in prunable]
    pruned = ranked(scores, prunable, excess)
    for p in pruned:
        now.base.pop(p, None)
        now.slots.pop(p, None)
    return pruned


def floor_of(x: float) -> int:
    """SEL-006, in exact integers: the binary64 sum x + 2^-20, floored."""
    total = x + 2.0**-20
    numerator, denominator = total.as_integer_ratio()
    return numerator // denominator


def adamw_by_hand(slot: Slot, g, lr: float, dtype: type, *, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0) -> Slot:
    """One step of one slot in the order of OPT-001, each product rounded to dtype."""
    age = slot.age + 1
    phi = dtype(slot.phi) * dtype(1.0 - lr * decay)
    m = dtype(beta1) * dtype(slot.m) + dtype(1.0 - beta1) * dtype(g)
    v = dtype(beta2) * dtype(slot.v) + dtype(1.0 - beta2) * (dtype(g) * dtype(g))
    step_size = dtype(lr / (1.0 - beta1**age))
    root = dtype(math.sqrt(1.0 - beta2**age))
    phi = phi - step_size * (m / (np.sqrt(v) / root + dtype(eps)))
    return Slot(phi, m, v, age)
