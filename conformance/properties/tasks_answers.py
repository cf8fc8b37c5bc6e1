"""Properties of answers that a model writes (TSK-009)."""

from typing import Any

from conformance.answers.answer import ids
from conformance.oracle import tasks_answers
from conformance.properties.draws import Draw
from conformance.properties.large import beyond
from conformance.properties.model_large import LONG, WIDE, wide_config, wide_tensors
from conformance.properties.models import KINDS, drawn_config, drawn_tensors
from conformance.properties.trial import Trial, property_of

_PIECES = ("Que", "stion", ":", "Question: ", " b", "</", "s>", "", "<|im_end|>x")
_TRIED = 20
"""The most models that are drawn to get one whose answers rounding cannot change."""
_NEAR = 1e-3


def _ask(d: Draw, t: Trial, config: Any, tensors: Any, lengths: list[int], most: int) -> bool:
    """Ask for answers behind prompts of these lengths, unless rounding could change them; return whether it asked."""
    vocabulary = config["vocab_size"]
    pieces = [d.choice(_PIECES) for _ in range(vocabulary)]
    prompts = [ids(d.integers(n, 0, vocabulary - 1)) for n in lengths]
    stops = [d.integer(0, vocabulary - 1)]
    made = [tasks_answers.answered(config, tensors, pieces, prompt.tolist(), stops, most) for prompt in prompts]
    if min(near for _, near in made) < _NEAR:
        return False
    inputs = {"config": config, "tensors": tensors, "pieces": pieces, "prompts": prompts, "stops": stops}
    t.case("task.answers", inputs | {"max_tokens": most})
    return True


@property_of("tasks.answers", "TSK-009 TSK-003", "tasks", "task.answers", sees=(*KINDS, "too long a prompt"), seeded=1)
def _answers(d: Draw, t: Trial) -> None:
    """An answer is a loop over the largest logits, up to a stop token, a stop word, or a number of tokens."""
    for kind in KINDS:
        for _ in range(_TRIED):
            config = drawn_config(d, kind) | {"max_position_embeddings": 16}
            lengths = [d.integer(1, 4) for _ in range(3)]
            if _ask(d, t, config, drawn_tensors(d, config), lengths, d.integer(1, 8)):
                t.saw(kind)
                break
    config = drawn_config(d, KINDS[0]) | {"max_position_embeddings": 8}
    prompts = [ids([1]), ids([d.integer(0, 2)] * d.integer(6, 9))]
    inputs = {"config": config, "tensors": drawn_tensors(d, config), "prompts": prompts, "stops": [], "max_tokens": 4}
    t.saw("too long a prompt")
    t.case("task.answers", inputs | {"pieces": [d.choice(_PIECES) for _ in range(config["vocab_size"])]})


_LONG = "a prompt above 256 tokens"


@property_of("tasks.answers-large", "TSK-009", "tasks", "task.answers", sees=(WIDE, _LONG), seeded=1)
def _large(d: Draw, t: Trial) -> None:
    """Answers of wide matrices, and behind long prompts, are loops over the largest logits."""
    for saw in (WIDE, _LONG):
        for _ in range(_TRIED):
            config = wide_config(d) if saw == WIDE else LONG
            tensors = wide_tensors(d, config) if saw == WIDE else drawn_tensors(d, config)
            length = beyond(d, 64 if saw == WIDE else 256)
            if _ask(d, t, config, tensors, [length, length, 3], 3):
                t.saw(saw)
                break
