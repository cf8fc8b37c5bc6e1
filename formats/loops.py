"""The loops over supports: compiled where numba is installed, else in NumPy, which takes longer for the same bytes.

If numba is installed and fails to load, for example because it does not support this NumPy, importing this module
fails, too: remove or update numba.

Import this module inside the functions that use it, because numba takes longer to load than the rest of this package.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

try:
    import numba
except ModuleNotFoundError:
    from formats import plain as _set

    COMPILED = False
    _THREADS = os.cpu_count() or 1
else:
    from formats import fast as _set  # type: ignore[no-redef]

    COMPILED = True
    _THREADS = numba.config.NUMBA_NUM_THREADS

NAMES = (
    *("count_stored", "first_fault", "gap_bytes", "gather", "keeps_pattern", "mask_columns", "mask_rows"),
    *("pack_ranks", "pack_varint", "scatter", "set_bits", "slots_of", "unequal", "unpack_ranks"),
)
"""Names of the loops."""
R = TypeVar("R")

_WORTH_THREADS = 1 << 20
"""Slots or bytes from which threads are faster than one loop."""

count_stored = _set.count_stored
first_fault = _set.first_fault
gap_bytes = _set.gap_bytes
gather = _set.gather
keeps_pattern = _set.keeps_pattern
mask_columns = _set.mask_columns
mask_rows = _set.mask_rows
pack_ranks = _set.pack_ranks
pack_varint = _set.pack_varint
scatter = _set.scatter
set_bits = _set.set_bits
slots_of = _set.slots_of
unequal = _set.unequal
unpack_ranks = _set.unpack_ranks


def by_rows(rows: int, amount: int, work: Callable[[int, int], R]) -> list[R]:
    """Call work(first, last + 1) on runs of rows, in threads if that is faster, and return the results in order.

    Args:
        rows: number of rows.
        amount: slots or bytes of all rows together; if they are few, work is called once, without threads.
        work: a loop over some rows; two runs must not write to the same place. Threads help where it releases the GIL.
    """
    runs = _THREADS if amount >= _WORTH_THREADS and rows > 1 else 1
    edges = [rows * i // runs for i in range(runs + 1)]
    if runs == 1:
        return [work(0, rows)]
    with ThreadPoolExecutor(runs) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))
