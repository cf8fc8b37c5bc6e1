"""Padding for the writers of PEFT's sparse adapters: checks that changes fit an adapter, and fills it with −0.0.

The configuration alone decides for how many amounts PEFT makes room in a module. A module with fewer changes is padded
with −0.0, because adding −0.0 changes no number, not even a zero of either sign (FMT-157, FMT-170).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from formats import atomic, validate
from formats.container import Section, dtype_name
from formats.dialects.changes import CONFIG, PREFIX, WEIGHTS, Changes, check_change, float_base, order
from formats.dialects.stock import write_stock
from formats.errors import CannotHold, FormatError
from formats.records import Array, Dense, Sparse, Tensor, bits, flat, from_flat, with_values

SUFFIX = ".weight"
WRITABLE = frozenset({"F16", "BF16", "F32"})
"""Dtypes of amounts that PEFT keeps exactly, because it loads them into float32."""


class Plan(NamedTuple):
    """The data from which one module is written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nnz: int
    room: int
    """Number of weights that the base stores."""
    taken: bool
    """Whether one of the amounts is −0.0."""

    @property
    def module(self) -> str:
        """The path of the module, which PEFT matches with `target_modules`."""
        return self.name.removesuffix(SUFFIX)

    @property
    def path(self) -> str:
        """The beginning of the names of the module's tensors."""
        return PREFIX + self.module


def plans_of(changes: Changes, base: Mapping[str, Tensor], kind: str) -> list[Plan]:
    """Return the plan of every module, after verifying that an adapter can hold the changes; each is fetched once.

    Args:
        changes: the changes to write.
        base: name -> tensor of the model that is changed.
        kind: the name of the adapter in messages.

    Raises:
        CannotHold: FMT-154 for new values, for no changes at all, for tensors that are no matrix ``<module>.weight``
            of the base, and for dtypes that float32 does not hold.
        FormatError: FMT-066 to FMT-069.
    """
    if changes.op != "add":
        raise CannotHold(
            "FMT-154",
            f"a {kind} adapter holds amounts to add, these changes are of op {changes.op!r}; "
            f"write them as a delta of values instead",
        )
    if not changes.tensors:
        raise CannotHold("FMT-154", "there are no changes, and PEFT loads no adapter without a module")
    return [_plan(name, changes.positions_of(name), base, kind) for name in changes.tensors]


def _plan(name: str, tensor: Sparse, base: Mapping[str, Tensor], kind: str) -> Plan:
    if name not in base or not name.endswith(SUFFIX) or name == SUFFIX:
        raise CannotHold(
            "FMT-154", f"{name!r} is no <module>{SUFFIX} of the base; {kind} changes weights of linear layers only"
        )
    try:
        before = float_base(base, name, "FMT-154")
    except FormatError as error:
        # the error becomes CannotHold, because the changes are the caller's and no foreign file is at fault
        raise CannotHold(error.clause, error.message) from error
    if len(tensor.shape) != 2 or tensor.shape != before.shape or max(tensor.shape) > validate.MAX_SPARSE_DIM:
        raise CannotHold(
            "FMT-154",
            f"changes of {name!r} have shape {list(tensor.shape)}, the base has {list(before.shape)}; "
            f"expected one matrix with fewer than 2^31 rows and columns",
        )
    dtype = dtype_name(tensor.dtype)
    if dtype not in WRITABLE:
        raise CannotHold(
            "FMT-154",
            f"{name!r} has amounts of {dtype}, which PEFT does not keep; seft convert ... --to seft takes them",
        )
    check_change(tensor, name)
    return Plan(name, dtype, tensor.shape, tensor.nnz, before.nnz, bool(adds_nothing(tensor.values).any()))


def check_sizes(plans: Iterable[Plan], sizes: Mapping[str, int], rule: str) -> bool:
    """Return whether any module needs padding, after verifying that its base stores enough weights for the padding.

    Args:
        plans: the plans of all modules.
        sizes: tensor name -> how many amounts PEFT makes room for.
        rule: how PEFT computes that number, for messages.

    Raises:
        CannotHold: FMT-154 for a matrix too small or too sparse, and for amounts of −0.0 beside padding.
    """
    plans = list(plans)
    padded = any(sizes[plan.name] > plan.nnz for plan in plans)
    for plan in plans:
        size = sizes[plan.name]
        if size > max(plan.room, plan.nnz):
            raise CannotHold(
                "FMT-154",
                f"{plan.name!r} has {plan.nnz} changes and {plan.room} stored weights; PEFT would hold {size} "
                f"there, {rule}, which the largest tensor needs: write tensors with another share of changes apart",
            )
        if padded and plan.taken:
            raise CannotHold(
                "FMT-154", f"{plan.name!r} has amounts of −0.0, which a reader would take for padding; drop them first"
            )
    return padded


def target_modules(plans: Iterable[Plan]) -> str:
    """Return an expression of whole paths, because PEFT matches a list by endings and would hit other modules, too."""
    return "|".join(re.escape(plan.module) for plan in plans)


def padded_to(size: int, tensor: Sparse, before: Tensor) -> tuple[NDArray[np.int64], Array]:
    """Return positions and amounts (size,) in row-major order: the changes, and padding in the support of the base."""
    positions = flat(tensor)
    need = size - positions.size
    # `size` candidates are enough, because at most positions.size of them are changed
    candidates = np.arange(size, dtype=np.int64) if isinstance(before, Dense) else flat(before)[:size]
    free = np.setdiff1d(candidates, positions, assume_unique=True)[:need]
    together = np.concatenate([positions, free])
    amounts = np.concatenate([tensor.values, np.full(need, -0.0, dtype=tensor.dtype)])
    permutation = order(together)
    return together[permutation], amounts[permutation]


def adds_nothing(values: Array) -> NDArray[np.bool_]:
    """Return which amounts are −0.0, (K,): adding −0.0 keeps every number, but adding +0.0 makes −0.0 positive."""
    return bits(values) == bits(np.full(1, -0.0, dtype=values.dtype))


def without_padding(amounts: Sparse) -> Sparse:
    """Return amounts without those of −0.0; call it after all positions, also those of padding, are checked."""
    mask = ~adds_nothing(amounts.values)
    return with_values(from_flat(amounts.shape, flat(amounts)[mask]), amounts.values[mask])


def write_folder(
    folder: Path,
    config: str,
    sections: Iterable[Section],
    content: Callable[[str], Array],
    metadata: Mapping[str, str],
) -> None:
    """Write the two files of an adapter into a new folder, which appears complete or not at all.

    Args:
        folder: the folder to make.
        config: the text of adapter_config.json.
        sections: names, dtypes and shapes of the tensors.
        content: name of a tensor -> its array.
        metadata: entries of ``__metadata__`` beside ``format``.

    Raises:
        DestinationExists: FMT-110.
    """
    with atomic.new_folder(folder) as temporary:
        atomic.write_bytes(temporary / CONFIG, config.encode())
        write_stock(temporary / WEIGHTS, sections, content, {"format": "pt", **metadata})
