"""Chooses how a run stores the topology of a matrix with an N:M pattern (TOP-005)."""

from seft_ref.arrays.library import array_namespace
from seft_ref.errors import TopologyError
from seft_ref.topology.csr import Topology, flat
from seft_ref.topology.nm import grouped

_WIDEST_MASK = 62
"""Largest M for which `nm` stores a group as a mask"""


def in_groups(topology: Topology, pattern: tuple[int, int]) -> Topology:
    """Return a topology with its groups as bit masks, or unchanged if M is too large for them (TOP-005).

    Raises:
        TopologyError: TOP-005 if M does not divide the rows or a group stores more than N.
    """
    n_keep, width = pattern
    if width <= _WIDEST_MASK:
        return grouped(topology, pattern)
    n_out, n_in = topology.shape
    if n_in % width:
        raise TopologyError(
            "TOP-005", f"a {n_out}x{n_in} matrix has no groups of {n_keep}:{width}; M must divide {n_in}"
        )
    groups = flat(topology) // width
    # positions ascend, so a group stores more than N exactly if some entry and the N-th after it lie in the same group
    over = groups[n_keep:] == groups[: groups.shape[0] - n_keep] if groups.shape[0] > n_keep else groups[:0] == 1
    if bool(array_namespace(groups).any(over)):
        raise TopologyError(
            "TOP-005", f"a group of {width} stores more than {n_keep}, {n_keep}:{width} allows {n_keep}"
        )
    return topology
