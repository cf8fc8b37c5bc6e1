"""Mutants of generation: picks, readings and texts (GEN)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import sampling
from conformance.wrong.mutants.base import Mutant, Operation, Values, edits, ids, mutants, right


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


_SORTED = 'np.argsort(-scores[ids], kind="stable")'
_CROSSED = "sums >= sampling.top_p * sums[-1]"
_N_KEPT = f"int(np.argmax({_CROSSED})) + 1"
_WHOLE = "np.exp((scores - scores[ids[0]]) / sampling.temperature).sum()"
_COLD = "np.cumsum(np.exp(scores[ids] - scores[ids[0]]))"
_DRAWN = "return int(ids[np.argmax(sums > u * sums[n_kept - 1])])"
_DRAWN_BY_ID = """\
by_id = np.argsort(ids[:n_kept])
    sums = np.cumsum(weights[by_id])
    return int(ids[by_id][np.argmax(sums > u * sums[-1])])"""

MUTANTS: list[Mutant] = [
    *mutants("generate.pick",
        ("GEN-004", sampling._largest_first, _SORTED, "np.lexsort((-ids, -scores[ids]))", "ties to the higher id"),
        ("GEN-004", sampling._largest_first, f"{_SORTED}][:k]", f"{_SORTED}]",
         "all equals at the boundary of top-k kept"),
        ("GEN-005", sampling.pick, _DRAWN, _DRAWN_BY_ID, "sums in order of id"),
        ("GEN-005 RNG-002", sampling.pick, "STREAM_PICKS", "2", "the stream of training windows"),
        ("GEN-005", sampling.pick, "[number]", "[number + 1]", "the draw of the token itself"),
        ("GEN-005 RNG-002", sampling.pick, "(sampling.seed,", "(sampling.seed & 0xFFFFFFFF,", "a seed of 32 bits"),
        ("GEN-003", _drawn_at_0, "a draw at temperature 0"),
        ("GEN-003", _last_of_equals, "the last of equals"),
        ("GEN-003", _below_plus_zero, "−0 below +0"),
        unchecked="GEN-006 RNG-002"),
    *edits("generate.pick", "GEN-004", sampling.pick,
        (" / sampling.temperature)", " * sampling.temperature)", "logits times the temperature"),
        ("cumsum(weights)", "cumsum(weights.astype(np.float32))", "weights and sums in binary32"),
        ("(scores[ids] - scores[ids[0]])", "scores[ids]", "the largest logit not subtracted"),
        (_N_KEPT, f"min(int(np.sum(sums < sampling.top_p * {_WHOLE})) + 1, len(ids))", "top-p before top-k"),
        (_CROSSED, f"(cold := {_COLD}) >= sampling.top_p * cold[-1]", "top-p before the temperature"),
        (_N_KEPT, f"max(int(np.argmax({_CROSSED})), 1)", "the one that crosses top-p left out"),
        (_N_KEPT, "min(int(np.sum(sums <= sampling.top_p * sums[-1])) + 1, len(ids))",
         "one more where top-p is met exactly")),
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
