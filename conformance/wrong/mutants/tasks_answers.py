"""Mutants of answers that a model writes (TSK-003, TSK-009)."""

from typing import Any

import numpy as np

from conformance.engine import tasks
from conformance.engine.parts import score, task_runs
from conformance.wrong.mutants.base import Mutant, Operation, Rows, Values, after, edited, mutant, mutants, reset, right


def _asked(**new: Any) -> Operation:
    """Return answers to changed inputs; inputs that the engine refuses stay refused."""

    def f(a: Values) -> Values:
        right("task.answers")(a)
        return right("task.answers")(a | {name: change(a) for name, change in new.items()})

    return f


def _padded(a: Values) -> Values:
    """Pad shorter prompts at their beginning, and let the model read the padding."""
    longest = max(map(len, a["prompts"]))
    prompts = [np.concatenate([np.zeros(longest - len(prompt), np.int64), prompt]) for prompt in a["prompts"]]
    right("task.answers")(a)
    return right("task.answers")(a | {"prompts": prompts})


def _of_prompt_too(a: Values) -> Values:
    """Look for stop words in the prompts too."""
    out, texts = right("task.answers")(a), []
    for prompt, text in zip(a["prompts"], out["texts"], strict=True):
        before = "".join(a["pieces"][token] for token in prompt)
        whole = before + text
        first = min((whole.index(word) for word in task_runs.UNTIL if word in whole), default=len(whole))
        texts.append(whole[len(before) : max(first, len(before))])
    return {"texts": texts}


_STOP = "        if token in ends:\n            return False\n        tokens[row].append(token)\n"
_STOP_IN_TEXT = (
    "        tokens[row].append(token)\n        if token in ends:\n"
    "            texts[row] = tokenizer.decode(tokens[row])\n            return False\n"
)

_EDITS: Rows = (
    ("task.answers", "TSK-009", score.generate_until, _STOP, _STOP_IN_TEXT, "stop tokens in the text"),
    ("task.answers", "TSK-009", score.generate_until, "text.index(word)", "text.rindex(word)", "the last stop word"),
    (
        "task.answers",
        "TSK-009",
        score.generate_until,
        "text.index(word)",
        "text.index(word) + len(word)",
        "stop words in the text",
    ),
    ("task.answers", "TSK-009", score.generate_until, "text[: min(", "text[: max(", "the stop word that comes later"),
    ("task.answers", "TSK-003", score.check_prompt, "+ max_tokens - 1", "+ max_tokens", "room for one token more"),
    ("task.answers", "TSK-003", score.check_prompt, "+ max_tokens - 1", "", "no room for an answer"),
    ("task.answers", "TSK-003", score.check_prompt, "needed > positions", "needed > positions + 1", "one token more"),
    ("task.answers", "TSK-003", score.check_prompt, "if not tokens:", "if None:", "prompts without tokens"),
    ("task.answers", "TSK-003", score.check_vocabulary, "highest >=", "highest >", "one token behind the vocabulary"),
)

MUTANTS: list[Mutant] = [
    *mutants("task.answers", unchecked="TSK-003"),
    mutant("TSK-009", "task.answers", _asked(stops=lambda a: []), "no stop tokens"),
    mutant("TSK-009", "task.answers", _asked(stops=lambda a: a["stops"][:1]), "the first stop token alone"),
    mutant("TSK-009", "task.answers", _asked(max_tokens=lambda a: (a.get("max_tokens") or 256) - 1), "one token fewer"),
    mutant("TSK-009", "task.answers", _padded, "prompts padded"),
    mutant("TSK-009", "task.answers", _of_prompt_too, "stop words of the prompt"),
    mutant(
        "TSK-009",
        "task.answers",
        after("task.answers", lambda out, _: {"texts": [text.strip() for text in out["texts"]]}),
        "texts without white space around them",
    ),
    *(
        reset(
            "TSK-009",
            "task.answers",
            tasks,
            f"no stop word {word}",
            UNTIL=tuple(w for w in task_runs.UNTIL if w != word),
        )
        for word in task_runs.UNTIL
    ),
    reset("TSK-009", "task.answers", tasks, "128 tokens by default", MAX_TOKENS=128),
    *(edited(clauses, op, function, old, new, flaw) for op, clauses, function, old, new, flaw in _EDITS),
]
