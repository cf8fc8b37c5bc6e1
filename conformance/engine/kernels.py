"""The operations `kernel.*` as calls into a kernel set of the engine (chapter 3)."""

from typing import Any

from conformance.engine.values import Values, ints, read_topology
from formats.container import DTYPES
from seft_ref.arrays.library import Array, array_namespace, spread, to_halves
from seft_ref.errors import KernelError
from seft_ref.quantise.grid import nearest, parse_grid
from seft_ref.topology.csr import Topology, find, flat, from_flat

_HALVES = {"float16": DTYPES["F16"], "bfloat16": DTYPES["BF16"]}


def _odd(a: Values, *names: str) -> list[Any]:
    """Return the named inputs, after conversion of those in `odd` to the dtype that it says (KRN-010)."""
    out = []
    for name in names:
        x, kind = a[name], (a["odd"] or {}).get(name)
        xp = array_namespace(x)
        if kind == "other":
            x = xp.astype(x, xp.float32 if x.dtype == xp.float64 else xp.float64)
        elif kind is not None:
            x = xp.astype(x, getattr(xp, kind))
        out.append(x)
    return out


def _sparse(a: Values) -> Values:
    kernels, topology = a["kernels"], read_topology(a, "positions")
    values, x, dy = _odd(a, "values", "x", "dy")
    packed = _held(a, topology, values) if _is_held(a, values) else kernels.pack(topology, values)
    return {
        "y": kernels.matmul(x, packed),
        "dx": kernels.matmul_transposed(dy, packed),
        "dvalues": kernels.sample(dy, x, topology),
        "shape": ints(packed.shape),
    }


def _is_held(a: Values, values: Array) -> bool:
    """Return whether to compact the matrix: only in float32, because a compact matrix is multiplied in it (KRN-015)."""
    return a["held"] is not None and values.dtype == array_namespace(values).float32


def _held(a: Values, topology: Topology, values: Array) -> Any:
    """Return a matrix compacted to 16 bits or codes, with its live slots in a part of their own in float32."""
    kernels, live = a["kernels"], a["live"]
    try:
        compact = kernels.compact(topology, _stored(a["held"], topology, values))
    except KernelError as error:
        if error.clause != "KRN-018":
            raise
        # a kernel set need not support codes, and the results are the same without them
        return kernels.pack(topology, values)
    if live is None:
        # compacted twice, so that a wrong `unpack` shows in the products
        return kernels.compact(*kernels.unpack(compact))
    compact = kernels.clear(compact, kernels.locate(compact, topology, live))
    xp = array_namespace(values)
    part = from_flat(topology.shape, xp.take(flat(topology), live))
    return kernels.split(compact, kernels.pack(part, xp.take(values, live)))


def _stored(how: str, topology: Topology, values: Array) -> Any:
    """Return values in 16 bits, or as codes of the grid on which they lie."""
    if how in _HALVES:
        return to_halves(values, _HALVES[how])
    dense = array_namespace(values).reshape(spread(values, flat(topology), topology.numel), topology.shape)
    return nearest(dense, topology, parse_grid(how))


def _dense(a: Values) -> Values:
    kernels = a["kernels"]
    weight, x, dy = _odd(a, "weight", "x", "dy")
    packed = kernels.pack_dense(weight)
    return {
        "y": kernels.matmul(x, packed),
        "dx": kernels.matmul_transposed(dy, packed),
        "shape": ints(packed.shape),
    }


def _store(a: Values) -> Values:
    kernels, topology = a["kernels"], read_topology(a, "positions")
    if not _is_held(a, a["values"]):
        packed, slots = kernels.pack(topology, a["values"]), a["slots"]
    elif a["live"] is None:
        packed, slots = _held(a, topology, a["values"]), a["slots"]
    else:
        packed, slots = _held(a, topology, a["values"]), find(a["live"], a["slots"])[0]
        topology = from_flat(topology.shape, array_namespace(slots).take(flat(topology), a["live"]))
    packed = kernels.store(packed, kernels.locate(packed, topology, slots), a["new"])
    return {"y": kernels.matmul(a["x"], packed)}


def _store_dense(a: Values) -> Values:
    kernels, topology = a["kernels"], read_topology(a, "positions")
    # a copy, because `store` may write into the memory of the matrix (KRN-012)
    packed = kernels.pack_dense(array_namespace(a["weight"]).asarray(a["weight"], copy=True))
    packed = kernels.store(packed, kernels.locate(packed, topology, a["slots"]), a["new"])
    return {"y": kernels.matmul(a["x"], packed)}


def _exceeding(a: Values) -> Values:
    return {"indices": a["kernels"].exceeding(a["values"], a["least"])}


OPERATIONS: dict[str, Any] = {
    "kernel.sparse": _sparse,
    "kernel.dense": _dense,
    "kernel.store": _store,
    "kernel.store_dense": _store_dense,
    "kernel.exceeding": _exceeding,
}
