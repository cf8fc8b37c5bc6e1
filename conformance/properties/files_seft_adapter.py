"""Properties of SEFT adapters of PEFT (FMT-171)."""

import struct
from typing import Any

from conformance.answers.files_content import content
from conformance.oracle.files import Tensor
from conformance.oracle.files_codes import integers
from conformance.oracle.files_convert import packed
from conformance.oracle.files_deltas import WIDTHS
from conformance.oracle.files_seft_adapter import INDICES, PRUNED, VALUES
from conformance.oracle.train_around import rounded_bits
from conformance.properties.draws import Draw
from conformance.properties.foreign import NAME, adapter, files_of
from conformance.properties.trial import Trial, property_of

__all__ = ["SEFT"]

SEFT: dict[str, Any] = {"peft_type": "SEFT", "density": 0.5, "target_modules": "q", "inference_mode": True}
_FAULTS = ("a position twice", "a position outside", "an amount less", "an option", "amounts in 16 bits", "no base")


def _amounts(values: list[float], dtype: str) -> Tensor:
    return Tensor(dtype, (len(values),), struct.pack(f"<{len(values)}{'f' if dtype == 'F32' else 'd'}", *values))


@property_of(
    "convert.seft_adapter",
    "FMT-171",
    "foreign",
    "convert.seft_adapter",
    sees=("a sparse base", "a dense base", "nothing pruned", "a pruned position that grew again", "a fault"),
)
def _adapter(d: Draw, t: Trial) -> None:
    """An adapter adds amounts, or replaces values and removes positions if it prunes."""
    rows, columns, dtype = d.integer(1, 4), d.integer(1, 6), d.choice(tuple(WIDTHS))
    size = rows * columns
    stored = d.subset(size) if d.flag() else list(range(size))
    bits = packed(dtype, [rounded_bits(d.integer(-40, 40) / 8, dtype) for _ in stored])
    is_sparse = len(stored) < size
    base = Tensor(dtype, (rows, columns), bits, tuple(divmod(at, columns) for at in stored) if is_sparse else None)
    t.saw("a sparse base" if is_sparse else "a dense base")
    indices = [d.order(size)[i] for i in range(d.integer(1, size))]
    gone = [at for at in stored if d.flag(3)] if d.flag() else []
    t.saw("nothing pruned", not gone)
    t.saw("a pruned position that grew again", {*gone} & {*indices})
    amounts = [d.integer(-1000, 1000) / 2.0 ** d.integer(0, 12) for _ in indices]
    of = d.choice(("F32", "F64"))
    own = {INDICES: integers(indices, d.choice(("I32", "I64"))), VALUES: _amounts(amounts, of)}
    own |= {PRUNED: integers(gone, d.choice(("I32", "I64")))}
    config, name = SEFT, NAME
    if d.flag(3):
        t.saw("a fault")
        fault = d.choice(_FAULTS)
        if fault == "a position twice":
            own[PRUNED] = integers([*gone, *gone, size - 1, size - 1])
        elif fault == "a position outside":
            own[INDICES] = integers([*indices[:-1], d.choice((size, -1))])
        elif fault == "an amount less":
            own[VALUES] = _amounts(amounts[:-1], of)
        elif fault == "an option":
            config = SEFT | {d.choice(("use_dora", "r", "alpha")): True}
        elif fault == "amounts in 16 bits":
            own[VALUES] = Tensor("F16", (len(indices),), bytes(2 * len(indices)))
        else:
            name = "other.weight"
    t.case("convert.seft_adapter", files_of(adapter(config, own), tensors=content({name: base})))
