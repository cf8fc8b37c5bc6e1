"""Mutants of generation: picks, readings and texts (GEN)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.oracle import select_rng
from conformance.wrong.mutants.base import Mutant, Operation, Values, ids, mutant, mutants, right


@dataclass(frozen=True, slots=True)
class _Way:
    """Settings of a pick. The defaults are the engine's, and each mutant changes one."""

    ties: int = 1
    scaled: Callable[[Any, float], Any] = lambda distance, temperature: distance / temperature
    dtype: type = np.float64
    subtracts: bool = True
    cut: bool = True
    top_p_first: bool = False
    top_p_cold: bool = False
    crosses: bool = True
    meets: bool = True
    by_id: bool = False
    stream: int = 6
    from_number: int = 0
    seed_bits: int = 64


def _picks(way: _Way) -> Operation:
    def f(a: Values) -> Values:
        checked = right("generate.pick")(a)
        if a["temperature"] == 0:
            return checked
        return {"picked": ids(_one(a, way, int(number)) for number in a["numbers"])}

    return f


def _one(a: Values, way: _Way, number: int) -> int:
    logits = np.asarray(a["logits"], dtype=np.float64)
    n_ids = np.arange(len(logits))
    order = np.lexsort((way.ties * n_ids, -logits))
    if a.get("top_k") is not None and not way.top_p_first:
        least = logits[order][: a["top_k"]][-1]
        order = order[: a["top_k"]] if way.cut else order[logits[order] >= least]
    with np.errstate(all="ignore"):
        distance = logits[order] - (logits[order[0]] if way.subtracts else 0.0)
        weights = np.exp(way.scaled(distance, a["temperature"])).astype(way.dtype)
        shown = np.exp(distance) if way.top_p_cold else weights
    n = len(order)
    if a.get("top_p") is not None:
        sums = np.cumsum(shown)
        n = int(np.sum(sums < a["top_p"] * sums[-1] if way.meets else sums <= a["top_p"] * sums[-1]))
        n = max(n + 1 if way.crosses else n, 1)
    if a.get("top_k") is not None and way.top_p_first:
        n = min(n, a["top_k"])
    order, weights = order[:n], weights[:n]
    if way.by_id:
        to = np.argsort(order)
        order, weights = order[to], weights[to]
    seed = a["seed"] & ((1 << way.seed_bits) - 1)
    u = (select_rng.draw(select_rng.key(seed, way.stream), number + way.from_number) >> 11) * 2.0**-53
    sums = np.cumsum(weights)
    return int(order[min(int(np.sum(sums <= u * sums[-1])), n - 1)])


def _drawn_at_0(a: Values) -> Values:
    return right("generate.pick")(a | {"temperature": 1.0 if a["temperature"] == 0 else a["temperature"]})


def _last_of_equals(a: Values) -> Values:
    out = right("generate.pick")(a)
    if a["temperature"] != 0:
        return out
    logits = np.asarray(a["logits"])
    last = int(np.flatnonzero(logits == logits.max())[-1])
    return {"picked": ids([last] * len(a["numbers"]))}


def _below_plus_zero(a: Values) -> Values:
    out = right("generate.pick")(a)
    logits = np.asarray(a["logits"])
    if a["temperature"] != 0 or logits.max() != 0:
        return out
    best = next(i for i, x in enumerate(logits) if x == 0 and not np.signbit(x))
    return {"picked": ids([best] * len(a["numbers"]))}


def _part_by_part(a: Values, before: Callable[[int], int]) -> Values:
    """Return the last logits of each part; a part that begins at `first` sees tokens from `before(first)` on."""
    logits, first = [], 0
    for n in a["parts"]:
        start = before(first)
        tokens = a["tokens"][:, start : first + n]
        parts = [first - start, n] if first > start else [n]
        logits.append(right("generate.read")(a | {"tokens": tokens, "parts": parts})["logits"][:, -1])
        first += n
    return {"logits": np.stack(logits, axis=1)}


def _remembering(tokens: int | None) -> Operation:
    def f(a: Values) -> Values:
        right("generate.read")(a)
        return _part_by_part(a, lambda first: first if tokens is None else max(first - tokens, 0))

    return f


def _first_row_for_all(a: Values) -> Values:
    right("generate.read")(a)
    last = a["parts"][-1]
    out = right("generate.read")(a)["logits"].copy()
    split = a["tokens"].shape[1] - last
    for b in range(len(a["tokens"])):
        tokens = np.concatenate([a["tokens"][:1, :split], a["tokens"][b : b + 1, split:]], axis=1)
        out[b, -1] = right("generate.read")(a | {"tokens": tokens})["logits"][0, -1]
    return {"logits": out}


def _first_of_a_part(a: Values) -> Values:
    out = right("generate.read")(a)
    ones = right("generate.read")(a | {"parts": [1] * a["tokens"].shape[1]})["logits"]
    firsts = np.cumsum([0, *a["parts"][:-1]])
    return out | {"logits": np.ascontiguousarray(ones[:, firsts])}


def _without_window(a: Values) -> Values:
    right("generate.read")(a)
    return right("generate.read")(a | {"config": a["config"] | {"sliding_window": 64}})


def _told(**new: Callable[[Values], Any]) -> Operation:
    """Return a text from changed inputs; inputs that the engine refuses stay refused."""

    def f(a: Values) -> Values:
        right("generate.text")(a)
        return right("generate.text")(a | {name: g(a) for name, g in new.items()})

    return f


def _without_stop(a: Values) -> Values:
    tokens = right("generate.text")(a)["tokens"]
    return {"tokens": tokens[:-1] if len(tokens) and tokens[-1] in a["stops"] else tokens}


def _one_less_when_full(a: Values) -> Values:
    tokens = right("generate.text")(a)["tokens"]
    full = len(a["prompt"]) + len(tokens) > a["config"]["max_position_embeddings"]
    return {"tokens": tokens[:-1] if full else tokens}


def _one_more(a: Values) -> Values:
    right("generate.text")(a)
    more = None if a.get("max_tokens") is None else a["max_tokens"] + 1
    return right("generate.text")(a | {"max_tokens": more})


def _draws_from_the_prompt(a: Values) -> Values:
    """Number the draws from 0 at the first new token, and not from the length of the prompt."""
    right("generate.text")(a)
    tokens, picked = list(a["prompt"]), []
    for number in range(a.get("max_tokens") or 10**6):
        logits = right("generate.read")(
            {"config": a["config"], "tensors": a["tensors"], "tokens": np.array([tokens]), "parts": [len(tokens)]}
            | {"kernels": a["kernels"]}
        )["logits"][0, -1]
        (token,) = right("generate.pick")(a | {"logits": logits, "numbers": [number]})["picked"]
        tokens.append(int(token))
        picked.append(int(token))
        if picked[-1] in a["stops"] or len(tokens) > a["config"]["max_position_embeddings"]:
            break
    return {"tokens": ids(picked)}


_WAYS: tuple[tuple[str, _Way, str], ...] = (
    ("GEN-004", _Way(ties=-1), "ties to the higher id"),
    ("GEN-004", _Way(scaled=lambda x, t: x * t), "logits times the temperature"),
    ("GEN-004", _Way(dtype=np.float32), "weights and sums in binary32"),
    ("GEN-004", _Way(subtracts=False), "the largest logit not subtracted"),
    ("GEN-004", _Way(cut=False), "all equals at the boundary of top-k kept"),
    ("GEN-004", _Way(top_p_first=True), "top-p before top-k"),
    ("GEN-004", _Way(top_p_cold=True), "top-p before the temperature"),
    ("GEN-004", _Way(crosses=False), "the one that crosses top-p left out"),
    ("GEN-004", _Way(meets=False), "one more where top-p is met exactly"),
    ("GEN-005", _Way(by_id=True), "sums in order of id"),
    ("GEN-005 RNG-002", _Way(stream=2), "the stream of training windows"),
    ("GEN-005", _Way(from_number=1), "the draw of the token itself"),
    ("GEN-005 RNG-002", _Way(seed_bits=32), "a seed of 32 bits"),
)

MUTANTS: list[Mutant] = [
    *(mutant(clauses, "generate.pick", _picks(way), flaw) for clauses, way, flaw in _WAYS),
    *mutants("generate.pick",
        ("GEN-003", _drawn_at_0, "a draw at temperature 0"),
        ("GEN-003", _last_of_equals, "the last of equals"),
        ("GEN-003", _below_plus_zero, "−0 below +0"),
        unchecked="GEN-006 RNG-002"),
    *mutants("generate.read",
        ("GEN-001", _remembering(None), "nothing remembered"),
        ("GEN-001", _remembering(1), "one token remembered"),
        ("GEN-001", _first_row_for_all, "the context of the first row for all"),
        ("GEN-001", _first_of_a_part, "the logits behind the first of a reading"),
        ("GEN-001 LYR-008", _without_window, "no window behind a context"),
        unchecked="GEN-002 LYR-001"),
    *mutants("generate.text",
        ("GEN-007", _without_stop, "the stop token left out"),
        ("GEN-007", _told(stops=lambda a: []), "no stop token"),
        ("GEN-007", _told(stops=lambda a: a["stops"][:1]), "one stop token at most"),
        ("GEN-007", _one_less_when_full, "no token behind a full context"),
        ("GEN-007", _one_more, "one more token"),
        ("GEN-003", _told(temperature=lambda a: a["temperature"] or 1.0), "a draw at temperature 0"),
        ("GEN-005", _draws_from_the_prompt, "draws counted from the end of the prompt"),
        ("GEN-004", _told(top_p=lambda a: None), "no top-p"),
        unchecked="GEN-002 GEN-006 GEN-007"),
]  # fmt: skip

CONTROLS: list[Mutant] = [
    mutant("GEN-004", "generate.pick", _picks(_Way()), "none"),
]  # fmt: skip
