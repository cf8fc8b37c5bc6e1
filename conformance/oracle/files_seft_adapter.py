"""SEFT adapters of PEFT, read as changes of a base position by position (FMT-171)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite, prod

from conformance.oracle.files import Tensor
from conformance.oracle.files_convert_adapters import adapter
from conformance.oracle.files_deltas import WIDTHS, cells, number, rounded, tensor
from conformance.oracle.foreign import Tree, by, need, numbers

INDICES, VALUES, PRUNED = "seft_delta.indices", "seft_delta.values", "seft_delta.pruned"
KNOWN = """adapt adapts budget_by candidates counts density drop drop_fraction drop_schedule drops
event_replaces_step events evolve_every evolve_until evolves exclude_modules exempt first_event gradient_window grow
grow_scope init_weights initial_positions initial_scope layers_pattern layers_to_transform moments optimizer pattern
preset rank regrow scope seed slots start stored stored_sha256 support target_modules"""
"""Options that do not affect values."""


@dataclass(frozen=True)
class Changes:
    """Changes of a base: `how` is add or replace; `removed` has the positions that leave tensors with a support."""

    how: str
    tensors: dict[str, Tensor]
    removed: dict[str, Tensor]


def read(tree: Tree, base: Mapping[str, Tensor]) -> Changes:
    """Return the changes of an adapter.

    Raises:
        RefusedError: FMT-171, FMT-135 for a sum that is not finite, or FMT-121.
    """
    with by("FMT-171"):
        config, _, modules = adapter(tree, "SEFT", ((INDICES, VALUES, PRUNED),), KNOWN)
        parts = {f"{module}.weight": _parts(own, base[f"{module}.weight"]) for module, own in modules.items()}
        stated, own = config.get("stored_sha256"), _of_masks([base[name] for name in sorted(parts)])
        need(stated is None or own in (None, stated), "the base of the adapter")
        if not any(gone for _, _, gone in parts.values()):
            made = {name: tensor(of, base[name].shape, amounts) for name, (of, amounts, _) in parts.items()}
            return Changes("add", made, {})
        need(all(base[name].dtype in WIDTHS for name in parts), "a dtype that is added to (FMT-133)")
    with by("FMT-135"):
        made = {
            name: tensor(base[name].dtype, base[name].shape, _new(base[name], *part)) for name, part in parts.items()
        }
    removed = {
        name: tensor("NONE", base[name].shape, dict.fromkeys(gone - {*amounts}, b""))
        for name, (_, amounts, gone) in parts.items()
        if base[name].support is not None
    }
    return Changes("replace", made, removed)


def _parts(sections: Mapping[str, Tensor], one: Tensor) -> tuple[str, dict[int, bytes], set[int]]:
    """Return the dtype of the amounts of a module, the amounts by position, and the pruned positions."""
    indices, values, pruned = (sections[role] for role in (INDICES, VALUES, PRUNED))
    need(len(one.shape) == 2 and one.dtype.startswith(("F", "BF")), "a matrix of floats")
    need(values.dtype in ("F32", "F64") and len(values.shape) == 1, "one dimension of amounts")
    at, gone = _positions(indices, one), _positions(pruned, one)
    need(one.support is None or {*gone} <= {*cells(one)}, "pruned positions that are stored")
    return values.dtype, dict(zip(at, cells(values).values(), strict=True)), {*gone}


def _positions(t: Tensor, one: Tensor) -> list[int]:
    at = numbers(t, "I32", "I64")
    need(len(t.shape) == 1, "one dimension of positions")
    need(len({*at}) == len(at) and all(0 <= i < prod(one.shape) for i in at), "positions once and inside")
    return at


def _new(one: Tensor, of: str, amounts: Mapping[int, bytes], gone: set[int]) -> dict[int, bytes]:
    """Return the new values by position: sums at the indices, and in a dense base +0 at other pruned positions."""
    old, new = cells(one), {}
    for at, raw in amounts.items():
        before = 0.0 if at in gone or at not in old else number(one.dtype, old[at])
        total = before + number(of, raw)
        need(isfinite(total), "a finite sum")
        try:
            new[at] = rounded(one.dtype, total)
        except OverflowError as error:
            raise ValueError(error) from error
        need(isfinite(number(one.dtype, new[at])), "a sum that the dtype holds")
    return new if one.support is not None else new | {at: bytes(WIDTHS[one.dtype]) for at in gone - {*amounts}}


def _of_masks(bases: list[Tensor]) -> str | None:
    """Return the SHA-256 of the masks of bases (FMT-171.10), None if one of them is dense."""
    total = sha256()
    for one in bases:
        if one.support is None:
            return None
        width = -(-one.shape[1] // 8)
        mask = bytearray(one.shape[0] * width)
        for r, c in one.support:
            mask[r * width + c // 8] |= 1 << c % 8
        total.update(mask)
    return total.hexdigest()
