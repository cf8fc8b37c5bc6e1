"""Mutants of selections and topologies with one condition of a clause forgotten, or a limit off by one."""

from conformance.engine.parts import groups, nm_topology, rng, select, topology
from conformance.wrong.mutants.base import Mutant, edited, edits, mutants, reset

MUTANTS: list[Mutant] = [
    *mutants("topology.of",
        ("TOP-005", nm_topology.grouped, "if most > n_keep:", "if most > width:", "edited, more than N in a group"),
        ("TOP-005", nm_topology.grouped, " or n_in % width", "", "edited, rows that M does not divide"),
        ("TOP-005", groups.in_groups, "if n_in % width:", "if 0 < n_in < width:",
         "edited, rows that a wide M does not divide"),
        ("TOP-005", groups.in_groups, ".any(over)", ".all(over)", "edited, more than N in one wide group")),
    *edits("topology.of", "TOP-003", topology.from_flat,
        ("first < 0 or ", "", "edited, positions below 0"),
        ("last >= n_out * n_in", "last > n_out * n_in", "edited, a position behind"),
        ("positions[1:] > positions[:-1]", "positions[1:] >= positions[:-1]", "edited, a position twice")),
    *edits("select.pools", "SEL-008", select.selection_in_pools,
        ("xp.abs(inside - outside) / xp.where(size > 0, size, xp.ones_like(size))", "xp.abs(inside - outside)",
         "edited, the smallest difference"),
        ("Boundary(float(inside[best]) + 0.0, float(outside[best]) + 0.0)",
         "Boundary(float(inside[best]), float(outside[best]))", "edited, a boundary of −0"),
        ("int(xp.argmin(gaps))", "gaps.shape[0] - 1 - int(xp.argmin(xp.flip(gaps)))",
         "edited, the last of equal gaps"),
        ("xp.maximum(xp.abs(inside), xp.abs(outside))", "xp.abs(inside)", "edited, gaps by the inner score")),
    reset("TOP-005", "topology.of", groups, "masks of 64 bits for any pattern", _WIDEST_MASK=64),
    edited("RNG-002", "rng.draws", rng.counter_key, "0 <= word <= _MASK", "0 <= word <= _MASK // 2", "edited, 63 bits"),
    *mutants("topology.positions",
        ("TOP-001", topology.check, "int(indptr[0]) != 0 or ", "", "edited, pointers from 1"),
        ("TOP-001", topology.check, " or int(indptr[-1]) != topology.nnz", "", "edited, pointers to less")),
    *edits("topology.positions", "TOP-002", topology.check,
        ("lowest < 0 or ", "", "edited, columns below 0"),
        ("highest >= n_in", "highest > n_in", "edited, a column of in"),
        ("positions[1:] > positions[:-1]", "positions[1:] >= positions[:-1]", "edited, a column twice")),
    edited("SEL-005", "select.largest", select._check_count, "0 <= k <= n", "0 <= k < n", "edited, all refused"),
    *mutants("select.smallest",
        ("SEL-005", select._check_count, "0 <= k <= n", "k <= n", "edited, fewer than none"),
        ("SEL-004", select._check_finite, "xp.isfinite(scores)", "~xp.isnan(scores)", "edited, infinite scores")),
]  # fmt: skip
