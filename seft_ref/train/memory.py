"""Estimates the memory of a run from its config and settings, before anything is loaded (TRN-012).

parts = memory_of_run(config, settings, stored, compact=True)
sum(parts.values())
"""

from collections.abc import Mapping
from typing import NamedTuple

from seft_ref.matrix.window import OF_GRADIENTS
from seft_ref.model.activations import LARGE, activation_bytes
from seft_ref.model.config import ATTENTION, MLP, ModelConfig
from seft_ref.model.head import rows_at_once
from seft_ref.train.settings import TrainSettings
from seft_ref.update.delta import Stored
from seft_ref.update.pools import together

PROGRAM = 300 << 20
"""Python, NumPy, numba and its compiled kernels."""
PANEL = 64
"""Columns of a panel of the compiled kernels; every panel has a pointer of 4 bytes for each row."""
DENSE_FROM = 0.55
"""Share of stored positions from which the compiled kernels store a matrix densely."""
LOGIT_COPIES = 3
"""Arrays of the size of one part's logits that the loss has in memory at once."""
AT_AN_EVENT = 48
"""Bytes that an event needs for each stored weight of the largest matrix: int64 positions, and arrays on them."""
AT_AN_EVENT_ON_SUPPORT = 22
"""The same if slots only move among the stored weights of a matrix: their values and gradients, and no positions."""
IN_POOLS = 240
"""Bytes that an event needs for each stored weight if every row or group is a pool of its own."""


class Codes(NamedTuple):
    """The grid of a model whose targets are stored as codes (KRN-018)."""

    bits: int
    columns: int
    """columns of a group; 0 for a whole row"""
    symmetric: bool

    def n_bytes(self, shape: tuple[int, int], nnz: int) -> int:
        """Return the most bytes that a matrix with this many stored weights takes."""
        n_out, n_in = shape
        rows = -(-n_in // PANEL) * n_out
        # each row of a panel begins at a new byte, and the loops may read 64 bytes behind the codes
        codes = -(-nnz * self.bits // 8) + (-(-rows // 2) if self.bits == 4 else 0) + PANEL
        scales = n_out * (n_in // self.columns if self.columns else 1) * (4 if self.symmetric else 5)
        # each row of a panel has a mask of 8 bytes and a place in an order, and every 64 rows have an offset of 8 bytes
        return codes + scales + 9 * rows + 8 * (-(-n_in // PANEL) * -(-n_out // PANEL) + 1)


def memory_of_run(
    config: ModelConfig,
    settings: TrainSettings,
    stored: Mapping[str, int],
    *,
    itemsize: int = 4,
    compact: bool = False,
    codes: "Codes | None" = None,
    beside: int = 0,
    recompute: bool | None = None,
    index_bytes: tuple[int, int] = (1, 1),
    dense_from: float = DENSE_FROM,
    transposed: bool = False,
    bfloat16: bool = False,
) -> dict[str, int]:
    """Return the most bytes that each part of a run takes on the compiled kernels (TRN-012).

    stored       stored weights of every target at load
    itemsize     bytes of a number of the compute dtype
    compact      whether the targets stay in 16 bits or codes (CKP-008)
    codes        the grid if they are codes; None for 16 bits
    beside       number of weights that stand beside codes, over all targets
    recompute    as for `loss_and_gradients`
    index_bytes  bytes for the position of a packed weight: in a plain matrix, and in one of 16 bits
    dense_from   share of stored positions from which the kernel set stores a matrix densely
    transposed   whether the kernel set has a second, transposed copy of every sparse matrix
    bfloat16     whether the kernel set multiplies in bfloat16 (KRN-019), for which it makes a mask of every panel's row
    """
    index, index_of_16_bits = index_bytes
    extents = [Stored(matrix.shape, stored[matrix.name]) for matrix in config.targets()]
    adapter = settings.adapter
    slots = settings.delta_budgets(extents) if adapter is None else [adapter.parameters(e.shape) for e in extents]
    copies = 2 if transposed else 1
    pointers = [_pointers(e.shape) + (_pointers(e.shape[::-1]) if transposed else 0) for e in extents]
    weights = base = 0
    opened = sum(slots)
    for extent, of_rows, own in zip(extents, pointers, slots, strict=True):
        if compact and codes is not None:
            weights += codes.n_bytes(extent.shape, extent.nnz)
            continue
        if compact:
            weights += copies * (2 + index_of_16_bits) * extent.nnz + of_rows + bfloat16 * _masks(extent.shape)
            continue
        if extent.nnz < dense_from * extent.numel:
            weights += copies * (itemsize + index) * extent.nnz + of_rows + bfloat16 * _masks(extent.shape)
            continue
        weights += itemsize * extent.numel
        # KRN-017: a dense matrix cannot be unpacked, so its base is kept beside it
        base += (itemsize + 4) * extent.nnz + 8 * (extent.shape[0] + 1)
        opened -= own
    if adapter is not None and adapter.repacks:
        weights *= 2
    # a slot has its column, φ, its place, the base value under it, and a bool if the base is unpacked from the matrix
    row_starts = sum(8 * (extent.shape[0] + 1) for extent in extents)
    # KRN-016: a compact matrix has a second one beside it, in panels, with the effective weights at the slots
    live = copies * sum(slots) * (itemsize + index) + sum(pointers) if compact else 0
    # CKP-008.2: a weight beside codes is packed, and has its column, its value, a bool and its position
    held_beside = beside * (copies * (itemsize + index) + 4 + itemsize + 1 + 8)
    delta = sum(slots) * (4 + itemsize + 8 + itemsize) + opened + row_starts + live + held_beside
    moments = sum(slots) * sum(4 if name == "age" else itemsize for name in settings.keeps())
    # a step makes new values and moments from gradients at every slot while the old ones are still in memory
    step = moments + 2 * itemsize * sum(slots)
    rows, length = settings.batch, settings.length
    if recompute is None:
        recompute = activation_bytes(config, rows, length, itemsize, recompute=False) > LARGE
    keeps_layout = codes is None and (compact or all(e.nnz < dense_from * e.numel for e in extents))
    table = config.vocab_size * config.hidden_size
    return {
        "program": PROGRAM,
        "embeddings": itemsize * table * (1 if config.tie_word_embeddings else 2),
        "weights": weights,
        "base": base,
        "delta": delta,
        "moments": moments,
        "step": step,
        "activations": activation_bytes(config, rows, length, itemsize, recompute=recompute),
        "logits": LOGIT_COPIES * itemsize * rows_at_once(rows * length, config.vocab_size) * config.vocab_size,
        "event": _event(config, settings, extents, itemsize, compact=compact, keeps_layout=keeps_layout),
    }


def _pointers(shape: tuple[int, int]) -> int:
    return 4 * (-(-shape[1] // PANEL) * shape[0] + 1)


def _masks(shape: tuple[int, int]) -> int:
    return 8 * -(-shape[1] // PANEL) * shape[0]


def _event(
    config: ModelConfig,
    settings: TrainSettings,
    extents: list[Stored],
    itemsize: int,
    *,
    compact: bool,
    keeps_layout: bool,
) -> int:
    """Return the bytes of an event: those of its gradient windows, and those of its temporary arrays.

    keeps_layout  whether every matrix is one whose layout stays if slots move within its base
    """
    if settings.adapter is not None:
        # one base and one merged matrix are in memory at a time
        return AT_AN_EVENT * max(extent.nnz for extent in extents) + itemsize * max(extent.numel for extent in extents)
    evidence_names = settings.rule.asks() - {"inputs"}
    start, tokens = 0, settings.batch * settings.micro_batches * settings.length
    if settings.initial_positions == "gradient" and (compact or settings.initial_scope == "anywhere"):
        start = itemsize * _numbers_of_gradients(config, settings.start_batches * tokens)
    elif settings.initial_positions == "gradient":
        # DLT-004: only the gradient at every stored weight is kept
        start = itemsize * sum(extent.nnz for extent in extents)
    if settings.timetable().event_after(1) is None:
        return start
    largest = max(sum(extent.nnz for extent in one) for one in together(settings.rule, extents))
    at_an_event = IN_POOLS if settings.rule.by_row or settings.rule.by_group else AT_AN_EVENT
    on_support = settings.rule.only_on_support and settings.initial_scope == "active"
    if keeps_layout and on_support and settings.rule.counts == "support" and at_an_event == AT_AN_EVENT:
        at_an_event = AT_AN_EVENT_ON_SUPPORT
    working = at_an_event * largest + itemsize * max(extent.numel for extent in extents) // 8
    if not evidence_names:
        return max(start, working)
    support = sum(extent.nnz for extent in extents) + sum(settings.delta_budgets(extents))
    of_step = _numbers_of_gradients(config, tokens)
    if settings.rule.only_on_support:
        of_step = sum(min(tokens * sum(extent.shape), extent.nnz) for extent in extents)
    several = settings.gradient_window > 1 or settings.event_batches > 1
    if "tokens" in evidence_names:
        # GRD-008: the columns of one support, and a sum for each position of it, or of every support for several steps
        stored = [extent.nnz for extent in extents]
        working += 4 * max(stored) + itemsize * (sum(stored) if several else 2 * max(stored))
    if several:
        # TRN-005, TRN-023: sums over several steps are as large as the matrices, or as what the window keeps of them
        kept = sum(extent.numel for extent in extents)
        if settings.rule.only_on_support or settings.rule.candidates == "first-step":
            kept = support
        # the sums before a step are in memory beside those after it
        sums = 2 * len(evidence_names & OF_GRADIENTS) * kept + of_step
        return max(start, working + itemsize * sums)
    return max(start, working + itemsize * of_step)


def _numbers_of_gradients(config: ModelConfig, tokens: int) -> int:
    """Return how many numbers the gradients of all targets have over so many tokens, as factors or as matrices."""
    numbers = 0
    for name in ATTENTION + MLP:
        n_out, n_in = config.projection_shape(name)
        # k and v share the input of q, and up that of gate; factors are kept while they are smaller than the matrix
        own_input = 0 if name in ("k_proj", "v_proj", "up_proj") else n_in
        as_factors = tokens * (n_out + n_in) < n_out * n_in
        numbers += tokens * (n_out + own_input) if as_factors else n_out * n_in
    return numbers * config.num_hidden_layers
