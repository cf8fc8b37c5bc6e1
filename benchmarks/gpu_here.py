"""The GPU of this machine for checks and benchmarks, and the peers: products by other libraries on it."""

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
"""For every product, the peers that compute it, by name; one of them is `dense`."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device for checks and benchmarks.

    Attributes:
        told: the names and versions of device and libraries, for a page of results.
        kernels: the kernel set.
        like: an array on the device.
        xp: the array library.
        finish: waits until the device has done all work that was started.
        taken: runs some work, and returns the bytes of device memory that it allocated.
        peers: returns the peers for a matrix, given weight, topology, values, x and dy.
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
    properties = runtime.getDeviceProperties(runtime.getDevice())
    versions = {
        "GPU": f"{properties['name'].decode()}, compute capability {properties['major']}.{properties['minor']}, "
        f"{properties['totalGlobalMem'] / 2**30:.0f} GiB",
        "CUDA": f"runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}",
        "CuPy": cupy.__version__,
        "PyTorch": version("torch") if find_spec("torch") else "not installed",
        "Python": platform.python_version(),
    }
    return Gpu(versions, place.kernels, place.like, cupy, runtime.deviceSynchronize, _taken, _peers)


def _taken(work: Callable[[], None]) -> int:
    """Return how many bytes CuPy allocates for some work.

    The work gets a memory pool of its own, because in a shared one it could fill gaps and would not be counted.
    """
    import cupy

    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        work()
        cupy.cuda.runtime.deviceSynchronize()
        return int(pool.total_bytes())


def dense_peers(weight: Any, positions: Any, x: Any, dy: Any) -> Peers:
    """Return the products of a dense matrix in the library of its arrays; for CuPy that is cuBLAS."""
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
