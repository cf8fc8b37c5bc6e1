"""Mutants of selections and topologies with one condition of a clause forgotten, or a limit off by one."""

from typing import Any

from conformance.engine.parts import (
    groups,
    nm_topology,
    rng,
    select,
    topology,
)
from conformance.wrong.mutants.base import Mutant, edited, reset

_GROUPS: tuple[tuple[Any, str, str, str], ...] = (
    (nm_topology.grouped, "if most > n_keep:", "if most > width:", "more than N in a group"),
    (nm_topology.grouped, " or n_in % width", "", "rows that M does not divide"),
    (groups.in_groups, "if n_in % width:", "if 0 < n_in < width:", "rows that a wide M does not divide"),
    (groups.in_groups, ".any(over)", ".all(over)", "more than N in one wide group"),
)

_ROWS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "xp.abs(inside - outside) / xp.where(size > 0, size, xp.ones_like(size))",
        "xp.abs(inside - outside)",
        "the smallest difference",
    ),
)

_EDITS: tuple[tuple[str, str, Any, str, str, str], ...] = (
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "Boundary(float(inside[best]) + 0.0, float(outside[best]) + 0.0)",
        "Boundary(float(inside[best]), float(outside[best]))",
        "a boundary of −0",
    ),
    ("rng.draws", "RNG-002", rng.counter_key, "0 <= word <= _MASK", "0 <= word <= _MASK // 2", "63 bits"),
    ("topology.positions", "TOP-001", topology.check, "int(indptr[0]) != 0 or ", "", "pointers from 1"),
    ("topology.positions", "TOP-001", topology.check, " or int(indptr[-1]) != topology.nnz", "", "pointers to less"),
    ("topology.positions", "TOP-002", topology.check, "lowest < 0 or ", "", "columns below 0"),
    ("topology.positions", "TOP-002", topology.check, "highest >= n_in", "highest > n_in", "a column of in"),
    (
        "topology.positions",
        "TOP-002",
        topology.check,
        "positions[1:] > positions[:-1]",
        "positions[1:] >= positions[:-1]",
        "a column twice",
    ),
    ("topology.of", "TOP-003", topology.from_flat, "first < 0 or ", "", "positions below 0"),
    ("topology.of", "TOP-003", topology.from_flat, "last >= n_out * n_in", "last > n_out * n_in", "a position behind"),
    (
        "topology.of",
        "TOP-003",
        topology.from_flat,
        "positions[1:] > positions[:-1]",
        "positions[1:] >= positions[:-1]",
        "a position twice",
    ),
    ("select.largest", "SEL-005", select._check_count, "0 <= k <= n", "0 <= k < n", "all refused"),
    ("select.smallest", "SEL-005", select._check_count, "0 <= k <= n", "k <= n", "fewer than none"),
    ("select.smallest", "SEL-004", select._check_finite, "xp.isfinite(scores)", "~xp.isnan(scores)", "infinite scores"),
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "int(xp.argmin(gaps))",
        "gaps.shape[0] - 1 - int(xp.argmin(xp.flip(gaps)))",
        "the last of equal gaps",
    ),
    (
        "select.pools",
        "SEL-008",
        select.selection_in_pools,
        "xp.maximum(xp.abs(inside), xp.abs(outside))",
        "xp.abs(inside)",
        "gaps by the inner score",
    ),
)

MUTANTS: list[Mutant] = [
    *(edited("TOP-005", "topology.of", f, old, new, f"edited, {flaw}") for f, old, new, flaw in _GROUPS),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _ROWS),
    reset("TOP-005", "topology.of", groups, "masks of 64 bits for any pattern", _WIDEST_MASK=64),
    *(edited(clauses, op, f, old, new, f"edited, {flaw}") for op, clauses, f, old, new, flaw in _EDITS),
]
