"""Memory that the calls of a thread reuse, because fresh pages cost more than the products that fill them."""

import math
import threading

import numpy as np

from seft_ref.arrays.library import Dtype, NumpyArray


class _Scratch(threading.local):
    """The memory of one thread."""

    memory = np.empty(0, dtype=np.uint8)

    def take(self, shape: tuple[int, ...], dtype: Dtype) -> NumpyArray:
        """Return an uninitialised array, aligned to a cache line, that is valid until this thread's next call."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if self.memory.nbytes < n_bytes:
            memory = np.empty(n_bytes + 64, dtype=np.uint8)
            self.memory = memory[-memory.ctypes.data % 64 :]
        return self.memory[:n_bytes].view(dtype).reshape(shape)


scratch = _Scratch()
