"""FMT-052 along any axis, by the formula of the clause and nothing else."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from safetensors.numpy import load_file

import formats


def offsets_of(rank, m, n):
    """The offsets of a rank, by looking at all of them."""
    (found,) = (p for p in combinations(range(m), n) if sum(comb(x, i + 1) for i, x in enumerate(p)) == rank)
    return found


@pytest.mark.parametrize(
    ("shape", "axis", "n", "m"),
    [((3, 8, 5), 1, 2, 4), ((4, 3, 2, 5), 0, 1, 2), ((2, 6, 3, 4), 1, 1, 3), ((2, 3, 8), 2, 2, 4)],
)
def test_FMT_052_groups_along_an_axis_lie_where_the_clause_says(tmp_path, shape, axis, n, m):
    rng = np.random.default_rng(7)
    lines = np.moveaxis(np.zeros(shape, dtype=bool), axis, -1)
    groups = lines.reshape(-1, m)
    for group in groups:
        group[rng.choice(m, n, replace=False)] = True
    moved = groups.reshape(lines.shape)
    mask = np.moveaxis(moved, -1, axis)
    weight = np.where(mask, rng.standard_normal(shape), 0).astype(np.float32)
    path = tmp_path / "x.sparse.safetensors"
    formats.write_file(
        path, formats.Checkpoint("model", {"w": formats.from_dense(weight)}), encoding=f"nm:{n}:{m}:{axis}"
    )
    packed = load_file(path)["w#ranks"]
    columns = shape[-1]
    rows = int(np.prod(shape[:-1]))
    bits = (comb(m, n) - 1).bit_length()
    found = np.zeros((rows, columns), dtype=bool)
    last = axis == len(shape) - 1
    s = int(np.prod(shape[axis + 1 : -1])) if not last else 1
    for q, row in enumerate(packed):
        word = int.from_bytes(row.tobytes(), "little")
        for g in range(columns // m if last else columns):
            offsets = offsets_of(word >> (g * bits) & ((1 << bits) - 1), m, n)
            for p in offsets:
                if last:
                    found[q, g * m + p] = True
                else:
                    found[q // s * s * m + q % s + p * s, g] = True
    np.testing.assert_array_equal(found, mask.reshape(rows, columns))
