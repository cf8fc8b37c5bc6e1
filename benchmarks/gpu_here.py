"""The GPU that checks and benchmarks run on, and the libraries that they compare with."""

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from seft_cli.device import Device, place_of
from seft_ref.arrays.library import Array
from seft_ref.kernels import KernelSet
from seft_ref.topology.csr import Topology

Peers = dict[str, dict[str, Callable[[], Any]]]
"""For every product, other ways to compute it by name; `dense` is among them."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device as checks see it.

    Attributes:
        told: what a reader must know of it.
        kernels: the kernel set.
        like: an array that is there.
        xp: the array library.
        finish: waits until everything that was started is done.
        taken: does some work, and tells how many bytes of memory it took there besides what was held before.
        peers: other ways to compute the products of a matrix, given weight, topology, values, x and dy.
    """

    told: dict[str, str]
    kernels: KernelSet
    like: Array
    xp: Any
    finish: Callable[[], None]
    taken: Callable[[Callable[[], None]], int]
    peers: Callable[[Any, Topology, Any, Any, Any], Peers]


def the_gpu() -> Gpu:
    """Return the current device of CuPy.

    Raises:
        Refused: there is no CuPy or no GPU; the message says what to do.
    """
    place = place_of(Device.cuda)
    import cupy

    runtime = cupy.cuda.runtime
    found = runtime.getDeviceProperties(runtime.getDevice())
    told = {
        "GPU": f"{found['name'].decode()}, compute capability {found['major']}.{found['minor']}, "
        f"{found['totalGlobalMem'] / 2**30:.0f} GiB",
        "CUDA": f"runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}",
        "CuPy": cupy.__version__,
        "PyTorch": version("torch") if find_spec("torch") else "not installed",
        "Python": platform.python_version(),
    }
    return Gpu(told, place.kernels, place.like, cupy, runtime.deviceSynchronize, _taken, _peers)


def _taken(work: Callable[[], None]) -> int:
    """Return how much the memory that CuPy takes for some work is, of a pool of its own: in another it might fill what
    lies free between arrays, and be seen nowhere.
    """
    import cupy

    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        work()
        cupy.cuda.runtime.deviceSynchronize()
        return int(pool.total_bytes())


def dense_peers(weight: Any, positions: Any, x: Any, dy: Any) -> Peers:
    """Return the products of a dense matrix, by the library of its arrays: cuBLAS, with CuPy."""
    return {
        "forward": {"dense": lambda: x @ weight.T},
        "dx": {"dense": lambda: dy @ weight},
        "sample": {"dense": lambda: (dy.T @ x).reshape(-1)[positions]},
    }


def _peers(weight: Any, topology: Topology, values: Any, x: Any, dy: Any) -> Peers:
    import cupyx.scipy.sparse

    from seft_ref.topology.csr import flat

    positions = flat(topology)
    peers = dense_peers(weight, positions, x, dy)
    csr = cupyx.scipy.sparse.csr_matrix((values, topology.indices, topology.indptr), shape=topology.shape)
    transposed = csr.T.tocsr()
    peers["forward"]["cuSPARSE"] = lambda: (csr @ x.T).T
    peers["dx"]["cuSPARSE"] = lambda: (transposed @ dy.T).T
    if find_spec("torch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
        if torch.cuda.is_available():
            torch.set_grad_enabled(False)
            w, tx, tdy, at = (torch.from_dlpack(a) for a in (weight, x, dy, positions))
            peers["forward"]["torch"] = lambda: tx @ w.T
            peers["dx"]["torch"] = lambda: tdy @ w
            peers["sample"]["torch"] = lambda: (tdy.T @ tx).reshape(-1)[at]
    return peers
