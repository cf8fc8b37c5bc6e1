"""Chooses the initial positions of every delta (DLT-004)."""

from collections.abc import Mapping, Sequence

from seft_ref.arrays.finite import START_ADVICE, overflow_ends, refuse_spoilt_start
from seft_ref.arrays.lazy import Lazy
from seft_ref.arrays.library import Array, array_namespace, device, from_numpy, int64_like, to_numpy
from seft_ref.arrays.ranks import ALONE, Ranks
from seft_ref.arrays.rng import STREAM_POSITIONS, choose, counter_key
from seft_ref.errors import UpdateError
from seft_ref.kernels import KernelSet
from seft_ref.matrix.bases import AnyBase
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.of_step import Accumulated
from seft_ref.matrix.window import AnyWindow, Window
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights
from seft_ref.text.batch import Batch
from seft_ref.topology.csr import flat
from seft_ref.train.gradients import StepGradients, loss_and_gradients
from seft_ref.train.settings import TrainSettings
from seft_ref.update.delta import Base, new_delta, values_at
from seft_ref.update.rules import Rule
from seft_ref.update.select import largest

_FIRST = "the first step, at the weights as loaded"


def initial_positions(
    settings: TrainSettings,
    config: ModelConfig,
    weights: Weights,
    bases: Mapping[str, AnyBase],
    kernels: KernelSet,
    batches: Sequence[Batch],
    sizes: Sequence[int],
    ranks: Ranks = ALONE,
) -> dict[str, Array]:
    """Return the initial flat positions of every target, ascending (DLT-004); the same on every rank.

    batches  `first_batches` of this rank, whose gradient at the loaded weights is used by initial_positions gradient
    sizes    d_φ of each target
    Raises   UpdateError TRN-007 if the loss or a gradient that is used is not finite
    """
    by, anywhere = settings.initial_positions, settings.initial_scope == "anywhere"
    if by == "gradient":
        return _by_gradient(config, weights, bases, kernels, batches, sizes, ranks, anywhere=anywhere)
    chosen: dict[str, Array] = {}
    for index, (matrix, size) in enumerate(zip(config.targets(), sizes, strict=True)):
        base = bases[matrix.name].open()
        open_to = _everywhere(base) if anywhere else flat(base.topology)
        if by == "random":
            key = counter_key(settings.seed, STREAM_POSITIONS, index)
            chosen[matrix.name] = from_numpy(choose(key, to_numpy(open_to), size), open_to)
        else:
            xp = array_namespace(open_to)
            magnitude = xp.abs(values_at(flat(base.topology), base.values, open_to))
            chosen[matrix.name] = xp.take(open_to, largest(magnitude, size))
    return chosen


def _by_gradient(
    config: ModelConfig,
    weights: Weights,
    bases: Mapping[str, AnyBase],
    kernels: KernelSet,
    batches: Sequence[Batch],
    sizes: Sequence[int],
    ranks: Ranks,
    *,
    anywhere: bool,
) -> dict[str, Array]:
    """Return the positions of every target with the largest gradients, in the base or anywhere."""
    chosen: dict[str, Array] = {}
    compact = any(base.held_in is not None for base in bases.values())
    if not anywhere and not compact:
        with overflow_ends(_FIRST, START_ADVICE):
            first: StepGradients[Window] = loss_and_gradients(
                weights, config, batches, kernels, Lazy(bases, lambda name: bases[name].open().topology), ranks=ranks
            )
        refuse_spoilt_start(first.loss, first.at)
        gradients = first.at
        for (name, base), size in zip(bases.items(), sizes, strict=True):
            positions = flat(base.topology)
            xp = array_namespace(positions)
            chosen[name] = xp.take(positions, largest(xp.abs(gradients[name]), size))
        return chosen
    windows = {name: Window(base.shape) for name, base in bases.items()}
    with overflow_ends(_FIRST, START_ADVICE):
        step = loss_and_gradients(weights, config, batches, kernels, {}, windows, ranks=ranks)
    refuse_spoilt_start(step.loss, {})
    filled_windows = step.kept
    for (name, any_base), size in zip(bases.items(), sizes, strict=True):
        base = any_base.open()
        if not anywhere:
            # one matrix at a time, because gradients at all stored weights would take as much memory as these
            positions = flat(base.topology)
            xp = array_namespace(positions)
            gradient = _latest(filled_windows[name]).at(base.topology, kernels)
            refuse_spoilt_start(step.loss, {name: gradient})
            chosen[name] = xp.take(positions, largest(xp.abs(gradient), size))
            continue
        nothing = new_delta(base.topology.shape, flat(base.topology)[:0], base.values)
        view = View(filled_windows[name], base, nothing)
        try:
            (gathered,) = evidence([view], Rule(), int64_like([size], base.values), kernels=kernels)
        except UpdateError as error:
            if error.clause != "EVT-005":
                raise
            # TRN-007: no step has been made yet, so that a lower rate would not help
            raise UpdateError(
                "TRN-007", f"{_FIRST}, has a gradient of {name} with NaN or infinity; {START_ADVICE}"
            ) from None
        best = largest(gathered.candidate_scores, min(size, gathered.candidates.shape[0]))
        chosen[name] = array_namespace(best).take(gathered.candidates, best)
    return chosen


def _everywhere(base: Base) -> Array:
    xp = array_namespace(base.values)
    return xp.arange(base.topology.numel, dtype=xp.int64, device=device(base.values))


def _latest(window: AnyWindow) -> Accumulated:
    """Return the gradient of the one step that a window holds."""
    assert isinstance(window, Window)
    assert isinstance(window.latest, Accumulated)
    return window.latest
