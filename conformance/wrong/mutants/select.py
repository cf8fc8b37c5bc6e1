"""Mutants of selections, topologies, changes and draws (TOP, CHG, SEL, RNG)."""

import numpy as np

from conformance.engine.parts import groups, nm_topology, rng, select, topology
from conformance.wrong.mutants.base import Mutant, Operation, Values, edits, ids, mutant, mutants, reset, right


def higher_id_wins(sign: int) -> Operation:
    def op(a: Values) -> Values:
        order = np.lexsort((-a["ids"], sign * a["scores"]))
        return {"chosen": np.sort(a["ids"][order[: a["k"]]])}

    return op


def in_order_of_score(a: Values) -> Values:
    order = np.lexsort((a["ids"], -a["scores"]))
    return {"chosen": a["ids"][order[: a["k"]]]}


def nan_ranked(a: Values) -> Values:
    return {"chosen": np.sort(a["ids"][np.argsort(a["scores"], kind="stable")[: a["k"]]])}


def minus_zero_first(a: Values) -> Values:
    order = np.lexsort((a["ids"], ~np.signbit(a["scores"]), a["scores"]))
    return (
        {"chosen": np.sort(a["ids"][order[: a["k"]]])}
        if np.isfinite(a["scores"]).all()
        else right("select.smallest")(a)
    )


def unstable(a: Values) -> Values:
    if not (np.isfinite(a["scores"]).all() and 0 < a["k"] < len(a["ids"])):
        return right("select.largest")(a)
    return {"chosen": np.sort(a["ids"][np.argpartition(-a["scores"], a["k"])[: a["k"]]])}


def one_pool(a: Values) -> Values:
    whole = {"pools": np.zeros_like(a["pools"]), "counts": np.array([a["counts"].sum()])}
    return right("select.pools")(a | whole)


def indptr_of_columns(a: Values) -> Values:
    return right("topology.of")(a | {"out": a["in"], "in": a["out"]})


def by_column(out: Values, a: Values) -> Values:
    p = out["positions"]
    return {"positions": np.sort(p % max(a["in"], 1) * a["out"] + p // max(a["in"], 1))}


def gaps_in_the_dtype_of_scores(a: Values) -> Values:
    answer, scores, best = right("select.pools")(a), a["scores"], None
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
    boundary = {} if best is None else {n: np.array([x + 0], scores.dtype) for n, x in zip(names, best, strict=True)}
    return answer | boundary


MUTANTS: list[Mutant] = [
    *mutants("select.largest",
        ("SEL-001 NUM-001", higher_id_wins(-1), "ties to the higher id"),
        ("SEL-001", unstable, "a partition that leaves ties to chance"),
        ("SEL-003", in_order_of_score, "returned in order of score"),
        ("SEL-005", select._check_count, "0 <= k <= n", "0 <= k < n", "edited, all refused"),
        unchecked="SEL-004 SEL-005"),
    *mutants("select.smallest",
        ("SEL-002 NUM-001", higher_id_wins(1), "ties to the higher id"),
        ("SEL-004 SEL-005", nan_ranked, "NaN ranked, impossible counts answered"),
        ("SEL-004", minus_zero_first, "−0 before +0"),
        ("SEL-005", select._check_count, "0 <= k <= n", "k <= n", "edited, fewer than none"),
        ("SEL-004", select._check_finite, "xp.isfinite(scores)", "~xp.isnan(scores)", "edited, infinite scores")),
    *mutants("select.pools",
        ("SEL-007", one_pool, "one pool"),
        ("SEL-008", lambda o, _: {"outside": o["inside"]}, "no best left behind"),
        ("SEL-008", lambda o, _: {"gap": abs(o["inside"] - o["outside"])}, "the gap as it is"),
        ("SEL-008", gaps_in_the_dtype_of_scores, "gaps in the compute dtype"),
        unchecked="SEL-004 SEL-005"),
    *edits("select.pools", "SEL-008", select.selection_in_pools,
        ("xp.abs(inside - outside) / xp.where(size > 0, size, xp.ones_like(size))", "xp.abs(inside - outside)",
         "edited, the smallest difference"),
        ("Boundary(float(inside[best]) + 0.0, float(outside[best]) + 0.0)",
         "Boundary(float(inside[best]), float(outside[best]))", "edited, a boundary of −0"),
        ("int(xp.argmin(gaps))", "gaps.shape[0] - 1 - int(xp.argmin(xp.flip(gaps)))",
         "edited, the last of equal gaps"),
        ("xp.maximum(xp.abs(inside), xp.abs(outside))", "xp.abs(inside)", "edited, gaps by the inner score")),
    *mutants("rng.draws",
        ("RNG-001", {"numbers": lambda a: a["numbers"] - 1}, "draws from −1"),
        ("RNG-002", {"words": lambda a: a["words"][::-1]}, "words reversed"),
        ("RNG-002", rng.counter_key, "0 <= word <= _MASK", "0 <= word <= _MASK // 2", "edited, 63 bits")),
    *mutants("topology.positions",
        ("TOP-003", lambda a: {"positions": ids(a["indices"])}, "columns for flat positions"),
        ("TOP-003", by_column, "column-major"),
        ("TOP-001", topology.check, "int(indptr[0]) != 0 or ", "", "edited, pointers from 1"),
        ("TOP-001", topology.check, " or int(indptr[-1]) != topology.nnz", "", "edited, pointers to less"),
        unchecked="TOP-001 TOP-002"),
    *edits("topology.positions", "TOP-002", topology.check,
        ("lowest < 0 or ", "", "edited, columns below 0"),
        ("highest >= n_in", "highest > n_in", "edited, a column of in"),
        ("positions[1:] > positions[:-1]", "positions[1:] >= positions[:-1]", "edited, a column twice")),
    *mutants("topology.of",
        ("TOP-001", indptr_of_columns, "pointers of columns"),
        ("TOP-002", lambda o, _: {"indices": o["indices"][::-1]}, "columns backwards"),
        ("TOP-005", nm_topology.grouped, "if most > n_keep:", "if most > width:", "edited, more than N in a group"),
        ("TOP-005", nm_topology.grouped, " or n_in % width", "", "edited, rows that M does not divide"),
        ("TOP-005", groups.in_groups, "if n_in % width:", "if 0 < n_in < width:",
         "edited, rows that a wide M does not divide"),
        ("TOP-005", groups.in_groups, ".any(over)", ".all(over)", "edited, more than N in one wide group"),
        unchecked="TOP-003"),
    *edits("topology.of", "TOP-003", topology.from_flat,
        ("first < 0 or ", "", "edited, positions below 0"),
        ("last >= n_out * n_in", "last > n_out * n_in", "edited, a position behind"),
        ("positions[1:] > positions[:-1]", "positions[1:] >= positions[:-1]", "edited, a position twice")),
    mutant("CHG-001", "change.source", lambda a: {"source": ids(range(len(a["new"])))}, "slots kept in place"),
    *mutants("change.realign",
        ("CHG-002", {"fill": lambda a: 0.0}, "new slots always zero"),
        ("CHG-002", lambda o, _: {"values": o["values"] + 0.0}, "−0 becomes +0")),
    reset("TOP-005", "topology.of", groups, "masks of 64 bits for any pattern", _WIDEST_MASK=64),
]  # fmt: skip
