"""Deltas between whole checkpoints: make them, chain them, apply them (12.10).

delta = diff(base, target)                     a checkpoint of kind "delta", made tensor by tensor when it is written
target = apply(base, [delta, next_delta])      the chain is checked first, each tensor on access
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace

import numpy as np

from formats import change, digest, validate
from formats.container import DTYPES
from formats.delta_rules import ADD, OPERATIONS, REMOVE, REPLACE, WHOLE, operation_of
from formats.errors import FormatError
from formats.header import DELTA
from formats.lazy import Lazy, Supports, like, promised
from formats.reader import Reader, checkpoint_of
from formats.records import Checkpoint, DeltaOf, Dense, Mask, Sparse, Tensor
from formats.strict_json import JSON
from formats.v1 import BESIDE

KEPT = 1 << 26
"""Bytes of changes that `diff` keeps in memory until they are written; it computes the others a second time."""


def verified(reader: Reader) -> Checkpoint:
    """Return a reader as a `Checkpoint` whose tensors are compared with their digests on access."""

    def content(name: str) -> str:
        return reader.info(name).content_sha256

    def outline(name: str) -> Tensor:
        info = reader.info(name)
        if info.dtype not in DTYPES:
            return reader[name]
        return Dense(np.broadcast_to(np.zeros((), DTYPES[info.dtype]), info.shape))

    def load(name: str, other: Tensor | None = None) -> Tensor:
        try:
            return reader.load_verified(name, None if isinstance(other, Dense) else other)
        except FormatError as error:
            raise FormatError(error.clause, f"{reader.path}: {error.message}; fetch it again") from error

    supports = Supports(reader.origin, load)
    return checkpoint_of(reader, Lazy(reader.names(), load, outline, content, reader.__getitem__, supports))


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    """Return tensor name -> content digest (FMT-091); digests that are not known are computed, a tensor at a time."""
    tensors = checkpoint.tensors
    known_digest = tensors.digest if isinstance(tensors, Lazy) else None
    return {name: known_digest(name) if known_digest else digest.of_content(tensors[name]) for name in sorted(tensors)}


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A tensor that was read, and its content digest."""

    tensor: Tensor
    digest: str
    origin: Hashable
    """What its support was decoded from; None if that is not known."""


def _read(tensors: Mapping[str, Tensor], name: str, before: _Read | None = None) -> _Read | None:
    """Return the tensor of a name; None if there is none.

    `before` is a tensor that was read. If its support has the same origin, the new tensor takes it, so that nothing is
    decoded twice.
    """
    if name not in tensors:
        return None
    lazy = tensors if isinstance(tensors, Lazy) else None
    supports = lazy.supports if lazy else None
    origin = supports.origin(name) if supports else None
    if supports and before and origin is not None and origin == before.origin:
        tensor = supports.load(name, before.tensor)
    else:
        tensor = tensors[name]
    # if digests are known, reading has compared the tensor with its digest, so it is not hashed again
    known_digest = lazy.digest if lazy else None
    return _Read(tensor, known_digest(name) if known_digest else digest.of_content(tensor), origin)


def _pairs(
    base: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> Iterator[tuple[str, _Read | None, _Read | None]]:
    """Yield each name with its tensors in base and in target, in order of names.

    While a tensor of target is read, a thread reads the next one of base. It does so only after a large tensor, because
    handing over a small one takes as long as reading it, and only if the two are different mappings. If a tensor is
    damaged in both, the error is that of base.
    """
    names = sorted({*base, *target})
    ahead: Future[_Read | None] | None = None
    with ThreadPoolExecutor(1) as beside:
        for name, following in zip(names, [*names[1:], None], strict=True):
            old = ahead.result() if ahead else _read(base, name)
            ahead = None
            is_large = old is not None and not isinstance(old.tensor, Mask) and old.tensor.values.nbytes >= BESIDE
            if following is not None and is_large and base is not target:
                ahead = beside.submit(copy_context().run, _read, base, following)
            yield name, old, _read(target, name, old)


# making ------------------------------------------------------------------------------------------


def diff(base: Checkpoint, target: Checkpoint, op: str = REPLACE) -> Checkpoint:
    """Return the delta from base to target, with the attributes of target and the companions that differ.

    Args:
        base: the model to start from. Each tensor is read once, a large one in parallel with the one of target before
            it unless the two share their tensors. Those whose changes exceed `KEPT` bytes are read again when the delta
            is written.
        target: the model to lead to, read like base.
        op: ``"replace"``, which stores new values, or ``"add"``, which stores differences of floats.

    Raises:
        FormatError: FMT-084 for another op; FMT-131 if base and target are equal, or one of them is a delta;
            FMT-135 if `add` cannot lead to a tensor of target.
    """
    if op not in (REPLACE, ADD):
        raise FormatError("FMT-084", f"op {op!r} does not exist, expected {REPLACE} or {ADD}")
    for end in (base, target):
        _refuse_delta(end)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    in_memory: dict[str, dict[str, Tensor]] = {}
    stored: list[str] = []
    room = KEPT
    for name, old, new in _pairs(base.tensors, target.tensors):
        before |= {name: old.digest} if old else {}
        after |= {name: new.digest} if new else {}
        if not new or before.get(name) == after[name]:
            continue
        by_operation = change.between(old.tensor if old else None, new.tensor, op, name)
        stored += [f"{operation}:{name}" for operation in by_operation]
        size = sum(map(_nbytes, by_operation.values()))
        if size <= room:
            in_memory[name], room = by_operation, room - size

    def operations(name: str) -> dict[str, Tensor]:
        if name in in_memory:
            return in_memory[name]
        return change.between(base.tensors[name] if name in before else None, target.tensors[name], op, name)

    changed = {n: (before.get(n), after.get(n)) for n in sorted({*before, *after}) if before.get(n) != after.get(n)}
    described = DeltaOf(
        digest.of_state(before, base.tied, base.scales),
        digest.of_state(after, target.tied, target.scales),
        changed,
        target.tied,
        target.scales,
    )
    if described.base_sha256 == described.target_sha256:
        raise FormatError("FMT-131", "base and target are the same model; there is nothing to store")
    files = {name: data for name, data in target.files.items() if base.files.get(name) != data}
    return replace(_delta(described, stored, operations, target.attributes, files), remarks=target.remarks)


def _nbytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor takes in memory."""
    support = 0 if isinstance(tensor, Dense) else tensor.indptr.nbytes + tensor.indices.nbytes
    return support + (0 if isinstance(tensor, Mask) else tensor.values.nbytes)


def from_changes(
    base: Checkpoint,
    op: str,
    changes: Mapping[str, Sparse | Dense],
    attributes: dict[str, JSON] | None = None,
    removed: Mapping[str, Mask] | None = None,
) -> Checkpoint:
    """Return the delta that applies changes of one operation to a base, and removes positions.

    Args:
        base: the model to change.
        op: ``"replace"`` or ``"add"``.
        changes: base tensor name -> new values or amounts, of the base tensor's shape; a whole tensor if it is dense.
        attributes: those of the delta.
        removed: base tensor name -> the positions to remove from it. `changes` must name the tensor, too, and op must
            be ``"replace"``.

    Raises:
        FormatError: FMT-131 if nothing changes, or base is a delta; FMT-133 if a change does not fit its tensor;
            FMT-135 if a sum is not finite.
    """
    _refuse_delta(base)
    before = contents(base)
    after = dict(before)

    def operations(name: str) -> dict[str, Tensor]:
        going = removed[name] if removed and name in removed else None
        # FMT-132: of two operations the one that changes nothing is left out
        by_operation: dict[str, Tensor] = {REMOVE: going} if going is not None and going.nnz else {}
        changed = changes[name]
        if isinstance(changed, Dense):
            return {WHOLE: changed}
        return by_operation if by_operation and not changed.nnz else by_operation | {op: changed}

    stored = []
    for name in changes:
        by_operation = operations(name)
        after[name] = digest.of_content(change.apply(base.tensors.get(name), by_operation, name))
        stored += [f"{operation}:{name}" for operation in by_operation]
    changed: dict[str, tuple[str | None, str | None]] = {
        name: (before[name], after[name]) for name in changes if before[name] != after[name]
    }
    start, end = (digest.of_state(state, base.tied, base.scales) for state in (before, after))
    described = DeltaOf(start, end, changed, base.tied, base.scales)
    if not changed:
        raise FormatError(
            "FMT-131",
            "the changes leave every tensor as it is, as if they had been applied already; there is nothing to store",
        )
    stored = [one for one in stored if operation_of(one)[1] in described.tensors]
    return _delta(described, stored, operations, attributes or {}, {})


def _delta(
    described: DeltaOf,
    stored: list[str],
    operations: Callable[[str], Mapping[str, Tensor]],
    attributes: dict[str, JSON],
    files: Mapping[str, bytes],
) -> Checkpoint:
    """Return a delta that stores operations, each named ``op:tensor`` and made when it is written."""

    def make(name: str) -> Tensor:
        op, tensor = operation_of(name)
        return operations(tensor)[op]

    return Checkpoint(DELTA, Lazy(stored, make), attributes, {}, files, {}, described)


def _refuse_delta(checkpoint: Checkpoint) -> None:
    if checkpoint.delta is not None:
        raise FormatError("FMT-131", "a delta is no base and no target; apply it first: seft apply BASE DELTA OUT")


# applying ----------------------------------------------------------------------------------------


def apply(base: Checkpoint, deltas: Sequence[Checkpoint]) -> Checkpoint:
    """Return a base after deltas, applied one after the other; the chain is checked before this returns.

    Each tensor is made on access, and compared with the digest that the delta states, or else with the base's. The
    writer of this format makes this comparison itself, because it hashes every tensor anyway.

    Raises:
        FormatError: FMT-137 if the base is not the one that the first delta was made for, or a delta lists other
            tensors; FMT-139 if a delta does not start where the one before it ends;
            FMT-010 or FMT-016 if ties or scales of a target name a tensor that it lacks;
            FMT-138, at once if the digests do not lead to the target, on access if a tensor differs from its digest.
    """
    _refuse_delta(base)
    state = contents(base)
    reached, levels = digest.of_state(state, base.tied, base.scales), list[_Level]()
    for i, delta in enumerate(deltas):
        described = delta.delta
        if described is None:
            raise FormatError("FMT-131", f"number {i + 1} of the chain is a {delta.kind}, not a delta")
        if reached != described.base_sha256:
            _tell_difference(i, state, reached, described)
        wrong = sorted(n for n, (before, _) in described.tensors.items() if state.get(n) != before)
        if wrong:
            raise FormatError(
                "FMT-137", f"delta {i + 1} lists {wrong[0]!r} with another digest than its base has; make it anew"
            )
        state = {n: d for n, d in state.items() if n not in described.tensors}
        state |= {n: target for n, (_, target) in described.tensors.items() if target is not None}
        reached = digest.of_state(state, described.tied, described.scales)
        # FMT-010, FMT-016: checked here, because the result may be written in a format without ties and scales
        validate.check_tied(described.tied, state)
        validate.check_scales(described.scales, state)
        if reached != described.target_sha256:
            raise FormatError(
                "FMT-138", f"delta {i + 1} says it leads to {described.target_sha256}, its digests to {reached}"
            )
        for name, (before, target) in described.tensors.items():
            if levels and before is not None and target is None:
                _tensor_after(base, levels, name)  # because the earlier delta that made it is checked, too (FMT-138)
        levels.append(_Level(delta, described))
    return _applied(base, levels, state) if levels else base


def _tell_difference(i: int, state: Mapping[str, str], reached: str, described: DeltaOf) -> None:
    wrong = sorted(n for n, (before, _) in described.tensors.items() if state.get(n) != before)
    difference = "it differs in tensors that are not changed"
    if wrong:
        difference = f"{wrong[0]!r} differs" + (f", first of {len(wrong)}" if len(wrong) > 1 else "")
    if i:
        raise FormatError(
            "FMT-139", f"delta {i + 1} does not start where delta {i} ends: {difference}; give them in order"
        )
    if reached == described.target_sha256:
        raise FormatError("FMT-137", "this base is what the delta leads to: the delta has been applied already")
    raise FormatError(
        "FMT-137",
        f"the delta was made for a base of state digest {described.base_sha256}, not for this one, {reached}: "
        f"{difference}; give the model that it was made for, with its dtypes, sparse if it was sparse then and dense "
        "if it was dense, and several deltas in order",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """One delta of a chain, and what its own metadata say of the base and of the result."""

    delta: Checkpoint
    described: DeltaOf


def _applied(base: Checkpoint, levels: Sequence[_Level], state: Mapping[str, str]) -> Checkpoint:
    """Return a base after a chain; state holds the content digests that the tensors of the result must have."""
    last = levels[-1]

    def unchecked(name: str) -> Tensor:
        return _tensor_after(base, levels, name, is_compared=False)

    def make(name: str) -> Tensor:
        return _tensor_after(base, levels, name)

    def shaped(name: str) -> Tensor:
        # FMT-133: only the operation `whole` can change the dtype or the shape
        whole = f"{WHOLE}:{name}"
        for level in reversed(levels):
            if whole in level.delta.tensors:
                return like(level.delta.tensors, whole)
        return like(base.tensors, name)

    files = dict(base.files)
    for level in levels:
        files |= level.delta.files
    return replace(
        base,
        tensors=Lazy(state, make, shaped, dict(state).__getitem__, unchecked),
        attributes=last.delta.attributes,
        tied=dict(last.described.tied),
        files=files,
        scales=last.described.scales,
    )


def _tensor_after(base: Checkpoint, levels: Sequence[_Level], name: str, *, is_compared: bool = True) -> Tensor:
    """Return a tensor of a base after a chain, which it has.

    Each result on the way is compared with the digest of its delta, the last one only if `is_compared` (FMT-138). A
    base from a file is not compared if the first delta changes it: the result is, and damage of the base that reaches
    the result changes its digest (FMT-137.2).
    """
    listing = [i for i, level in enumerate(levels) if name in level.described.tensors]
    made = [i for i in listing if levels[i].described.tensors[name][0] is None]
    if made:  # the tensor was deleted, or was not there, before the last of these
        listing = listing[listing.index(made[-1]) :]
    if not listing:
        alone = len(levels) == 1 and not is_compared
        return promised(base.tensors, name)[0] if alone else base.tensors[name]
    result: Tensor | None = None
    if not made:
        result = base.tensors[name] if listing[0] else promised(base.tensors, name)[0]
    for i in listing:
        delta, target = levels[i].delta, levels[i].described.tensors[name][1]
        from_base = i == listing[0] and not made
        stored = {op: f"{op}:{name}" for op in OPERATIONS if f"{op}:{name}" in delta.tensors}
        try:
            result = change.apply(result, {op: delta.tensors[key] for op, key in stored.items()}, name)
        except FormatError:
            if from_base:
                base.tensors[name]  # raises FMT-090 or FMT-091 if the base itself is damaged
            raise
        if (is_compared or i != listing[-1]) and (actual := digest.of_content(result)) != target:
            if from_base:
                base.tensors[name]
            raise FormatError("FMT-138", f"{name!r} becomes a tensor of digest {actual}, the delta promises {target}")
    assert result is not None, "the chain ends with this tensor"
    return result
