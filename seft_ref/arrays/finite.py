"""Errors for numbers with which a run must not go on: NaN, infinity, and weights too large for the dtype of a file."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, device, overflow_allowed, to_numpy
from seft_ref.errors import CheckpointError, ConfigError, LayerOverflow, UpdateError

LOWER_RATE = "start anew with a lower learning rate"
START_ADVICE = "compute in float64 (--dtype float64), or look for a damaged weight"
"""Advice before the first step, when no learning rate has changed the weights yet."""


def all_finite(*arrays: Array) -> bool:
    """Return whether all entries of the arrays are finite; the arrays are of one library, and integers are finite."""
    verdict = None
    for x in arrays:
        xp = array_namespace(x)
        if xp.isdtype(x.dtype, "real floating"):
            finite = xp.all(xp.isfinite(x))
            verdict = finite if verdict is None else verdict & finite
    return verdict is None or bool(verdict)


@contextmanager
def overflow_ends(what: str, advice: str) -> Iterator[None]:
    """Return a context that turns an overflow inside a layer into the error that ends a run (TRN-007).

    what    the name of the computation in the message, such as "step 3"
    advice  what the message says to do about it
    Raises  UpdateError TRN-007
    """
    try:
        yield
    except LayerOverflow as error:
        # TRN-007
        raise UpdateError("TRN-007", f"{what}: {error.message} ({error.clause}); {advice}") from error


def refuse_spoilt_start(loss: float, gradients: Mapping[str, Array]) -> None:
    """Refuse a first step whose loss or gradients, at the weights as loaded, are NaN or infinite (TRN-007).

    Raises:
        UpdateError: TRN-007.
    """
    # TRN-007
    bad = next((name for name, gradient in gradients.items() if not all_finite(gradient)), None)
    if not math.isfinite(loss) or bad is not None:
        which = f"loss {loss}" if bad is None else f"loss {loss} and a gradient of {bad} with NaN or infinity"
        raise UpdateError("TRN-007", f"the first step, at the weights as loaded, has {which}; {START_ADVICE}")


def refuse_spoilt(step: int, name: str, arrays: Mapping[str, Array]) -> None:
    """Refuse arrays of one matrix that a step has left with NaN or infinity (TRN-007).

    arrays  the arrays by the names that the error gives them
    Raises  UpdateError TRN-007
    """
    # TRN-007
    if not all_finite(*arrays.values()):
        bad = next(part for part, x in arrays.items() if not all_finite(x))
        raise UpdateError(
            "TRN-007",
            f"step {step} leaves {bad} of {name} with NaN or infinity; {LOWER_RATE}",
        )


def refuse_unstorable(step: int, name: str, weights: Float[Array, " d"], limit: float) -> None:
    """Refuse weights of a matrix if one of them would be infinite in the dtype of its file (CKP-010).

    limit   the smallest magnitude that the dtype rounds to infinity
    Raises  CheckpointError CKP-010
    """
    xp = array_namespace(weights)
    # CKP-010
    if weights.shape[0] and bool(xp.any(xp.abs(weights) >= limit)):
        raise CheckpointError(
            "CKP-010",
            f"step {step} leaves a weight of {name} of magnitude {float(xp.max(xp.abs(weights))):.6g}, which the dtype "
            "of its file does not hold; start anew with a lower learning rate, or convert the model to float32 first "
            "(seft convert SRC DST --to sparse --dtype F32)",
        )


def refuse_spoilt_sums(arrays: Mapping[str, Array]) -> None:
    """Refuse sums of a gradient window with NaN or infinity (TRN-007).

    Raises:
        UpdateError: TRN-007.
    """
    # TRN-007
    for name, x in arrays.items():
        if not all_finite(x):
            raise UpdateError(
                "TRN-007",
                f"the sum of {name} of a gradient window holds NaN or infinity; {LOWER_RATE}",
            )


def gradient_norm(step: int, loss: float, gradients: Mapping[str, Float[Array, " d"]]) -> float:
    """Return the Euclidean norm of the delta gradients of all matrices, computed in binary64 (OPT-004).

    Raises:
        UpdateError: TRN-007 if the norm or the loss is not finite.
    """
    square = 0.0
    for gradient in gradients.values():
        # computed on the host, because some devices have no binary64
        wide = to_numpy(gradient).astype("float64")
        with overflow_allowed():
            square += float((wide * wide).sum())
    # TRN-007
    if not (math.isfinite(loss) and math.isfinite(square)):
        raise UpdateError("TRN-007", f"step {step} has loss {loss} and gradient norm² {square}; {LOWER_RATE}")
    return math.sqrt(square)


def check_eps(eps: float, like: Array) -> None:
    """Refuse an eps that the compute dtype rounds to 0 or infinity: at 0 a slot without gradient divides 0 by 0.

    Raises:
        ConfigError: TRN-008.
    """
    xp = array_namespace(like)
    rounded = float(xp.asarray(eps, dtype=like.dtype, device=device(like)))
    # TRN-008
    if not 0 < rounded < math.inf:
        raise ConfigError("TRN-008", f"eps is {eps}, which {like.dtype} rounds to {rounded}; choose another")
