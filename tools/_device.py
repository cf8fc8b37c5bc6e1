"""Where a command computes: the kernel set, the array that tells where arrays go, and how much memory is free there."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import _cli
import _memory
import typer

from seft_ref.arrays import Array
from seft_ref.kernels import Kernels


class Device(StrEnum):
    """What `--device` takes."""

    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[
    Device, typer.Option("--device", help="Compute on the processor, or with CuPy on an NVIDIA GPU.")
]


@dataclass(frozen=True, slots=True)
class Place:
    """One device.

    Attributes:
        kernels: the kernel set that multiplies there.
        like: an array that is there; None for NumPy.
        index_bytes: what the position of a packed weight takes, plain and in 16 bits.
        free_bytes: tells how much memory a run can have.
    """

    kernels: Kernels
    like: Array | None
    index_bytes: tuple[int, int]
    free_bytes: Callable[[], int]


def place_of(device: Device, processes: int = 1) -> Place:
    """Return where each of several processes computes.

    Raises:
        Refused: there is no CuPy or no GPU, or more than one process asks for it; the message says what to do.
    """
    if device is Device.cuda and processes > 1:
        raise _cli.Refused("--device cuda computes in one process; start it without mpirun, or choose --device cpu")
    return _PLACES[device]()


def _on_cpu() -> Place:
    from seft_ref.kernels import cpu

    return Place(cpu, None, (1, 1), lambda: _memory.available_bytes())


def _on_cuda() -> Place:
    from seft_ref.arrays import cupy_like, without_cupy

    told = without_cupy()
    if told:
        raise _cli.Refused(f"--device cuda: {told}")
    import cupy

    from seft_ref.kernels import gpu

    return Place(gpu, cupy_like(), (12, 4), lambda: int(cupy.cuda.runtime.memGetInfo()[0]))


_PLACES = {Device.cpu: _on_cpu, Device.cuda: _on_cuda}
