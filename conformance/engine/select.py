"""The operations on topologies, selection and random numbers, as calls into the engine (chapters 2 and 7)."""

from typing import Any

import numpy as np

from conformance.engine.values import Values, read_topology
from seft_ref.arrays.library import array_namespace, to_numpy
from seft_ref.arrays.rng import counter_key, draws
from seft_ref.topology.change import change, realign
from seft_ref.topology.csr import Topology, check, flat
from seft_ref.topology.groups import in_groups
from seft_ref.update.select import largest, select, selection


def _chosen(select: Any) -> Any:
    def op(a: Values) -> Values:
        return {"chosen": array_namespace(a["ids"]).take(a["ids"], select(a["scores"], a["k"]))}

    return op


def _positions(a: Values) -> Values:
    xp = array_namespace(a["indptr"])
    topology = Topology((a["out"], a["in"]), a["indptr"], xp.astype(a["indices"], xp.int32))
    check(topology)
    return {"positions": flat(topology)}


def _topology_of(a: Values) -> Values:
    topology = read_topology(a, "positions")
    if a["pattern"] is not None:
        n_keep, width = to_numpy(a["pattern"]).tolist()
        topology = in_groups(topology, (n_keep, width))
    return {"indptr": topology.indptr, "indices": topology.indices}


def _source(a: Values) -> Values:
    return {"source": change(read_topology(a, "old"), read_topology(a, "new")).source}


def _realign(a: Values) -> Values:
    return {"values": realign(a["values"], change(read_topology(a, "old"), read_topology(a, "new")), a["fill"])}


def _pools(a: Values) -> Values:
    selected = select(a["scores"], a["pools"], a["counts"], largest=a["largest"])
    xp = array_namespace(a["ids"])
    near = selected.boundary
    scores = {"inside": near.inside, "outside": near.outside, "gap": near.gap} if near else {}
    dtype = to_numpy(a["scores"]).dtype
    answer = {name: np.array([scores[name]] if scores else [], dtype=dtype) for name in ("inside", "outside", "gap")}
    return answer | {"chosen": xp.take(a["ids"], selected.indices)}


OPERATIONS: dict[str, Any] = {
    "rng.draws": lambda a: {"draws": draws(counter_key(*map(int, a["words"])), a["numbers"])},
    "select.largest": _chosen(largest),
    "select.smallest": _chosen(lambda scores, k: selection(scores, k).indices),
    "topology.positions": _positions,
    "topology.of": _topology_of,
    "change.source": _source,
    "change.realign": _realign,
    "select.pools": _pools,
}
