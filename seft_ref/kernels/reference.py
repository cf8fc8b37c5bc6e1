"""Stub: definition of the kernels."""

from dataclasses import dataclass, replace

from seft_ref.arrays import array_namespace, device
from seft_ref.topology import find, flat, full


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    topology: object
    values: object

    @property
    def shape(self):
        return self.topology.shape

    @property
    def dtype(self):
        return self.values.dtype


def pack(topology, values):
    return Packed(topology, values)


def pack_dense(weight):
    xp = array_namespace(weight)
    return Packed(full(weight.shape, weight), xp.reshape(weight, (-1,)))


def locate(packed, topology, slots):
    return slots


def store(packed, where, values):
    xp = array_namespace(values)
    s = xp.arange(packed.topology.nnz, dtype=xp.int64, device=device(values))
    w, p = find(where, s)
    return replace(packed, values=xp.where(p, xp.take(values, w), packed.values) if where.shape[0] else packed.values)


def _dense(packed):
    xp = array_namespace(packed.values)
    n = packed.topology.numel
    if packed.topology.nnz == 0:
        return xp.zeros(packed.shape, dtype=packed.values.dtype, device=device(packed.values))
    w, p = find(flat(packed.topology), xp.arange(n, dtype=xp.int64, device=device(packed.values)))
    return xp.reshape(
        xp.where(p, xp.take(packed.values, w), xp.zeros(n, dtype=packed.values.dtype, device=device(packed.values))),
        packed.shape,
    )


def matmul(x, packed):
    return x @ array_namespace(x).matrix_transpose(_dense(packed))


def matmul_transposed(dy, packed):
    return dy @ _dense(packed)


def sample(dy, x, topology):
    xp = array_namespace(x)
    return xp.take(xp.reshape(xp.matrix_transpose(dy) @ x, (-1,)), flat(topology))
