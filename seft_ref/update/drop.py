"""Drop: the weakest slots of a delta go."""

from jaxtyping import Float, Int

from seft_ref.arrays import Array
from seft_ref.update.criteria import DROP, Known
from seft_ref.update.select import smallest


def drop(values: Float[Array, " d"], n: int) -> Int[Array, " n"]:
    """Return the slots of the n smallest |φ|, ascending (DROP-001).

    Slots are in order of their flat positions, so a tie goes to the lower position.

    Raises:
        UpdateError: SEL-004 for NaN or infinite values, SEL-005 if n exceeds the slots.
    """
    return smallest(DROP["magnitude"](Known(value=values)), n)
