"""Properties of sizes beyond every boundary of an index type: generate."""

from typing import Any

from conformance.answers.answer import ids
from conformance.oracle import generate
from conformance.oracle.model import Config
from conformance.properties.draws import Draw, Many
from conformance.properties.large import BEYOND, beyond
from conformance.properties.model_large import WIDE, wide_config
from conformance.properties.models import TINY, drawn_tensors
from conformance.properties.trial import Trial, property_of

_TRIED = 20
"""The most models that are drawn to get one whose picks rounding cannot change."""


@property_of("generate.pick-large", "GEN-003 GEN-004 GEN-005", "generate", "generate.pick", sees=(BEYOND,), seeded=2)
def _pick(d: Draw, t: Trial) -> None:
    """A port picks the token that a loop over more than 65,536 sorted ids picks."""
    n, many = 65_600 + d.integer(0, 999), Many(d)
    logits, seed = many.lattice((n,), 200) / 64, d.integer(0, 2**40)
    t.saw(BEYOND, n > 65_536)
    ties: tuple[tuple[float, int | None, float | None], ...] = ((0.0, None, None), (1.0, None, None), (0.5, None, 0.9),
                                                                (1.0, 40_000, None))  # fmt: skip
    for temperature, top_k, top_p in ties:
        number = d.integer(0, 2**33)
        if not generate.picked(logits.tolist(), temperature, top_k, top_p, seed, number)[1]:
            continue
        inputs: dict[str, Any] = {"logits": logits, "temperature": temperature, "seed": seed, "numbers": [number]}
        inputs |= {"top_k": top_k} if top_k else {}
        inputs |= {"top_p": top_p} if top_p else {}
        t.case("generate.pick", inputs)


_SLIDES: Config = TINY | {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "sliding_attention"],
    "use_sliding_window": True,
    "max_window_layers": 0,
    "max_position_embeddings": 2048,
}
"""A model with a block whose queries see every earlier token, and one with a sliding window."""

_KEYS = ("a context above 512 tokens that grows twice more", "a reading above 256 tokens", WIDE)


@property_of("generate.read-large", "GEN-001 LYR-008 LYR-013", "generate", "generate.read", sees=_KEYS, seeded=1)
def _read(d: Draw, t: Trial) -> None:
    """Logits behind readings of many tokens are those of a whole forward, however much the context has grown."""
    parts = [beyond(d, 256), beyond(d, 256), 1, beyond(d, 256), d.integer(2, 9)]
    config = _SLIDES | {"sliding_window": d.integer(130, 300)}
    tensors = drawn_tensors(d, config, 1.0)
    tokens = ids(d.integers(2 * sum(parts), 0, config["vocab_size"] - 1)).reshape(2, -1)
    t.saw(_KEYS[0], sum(parts[:2]) > 512 and sum(parts) > 768)
    t.saw(_KEYS[1])
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "parts": parts}
    t.case("generate.read", inputs)
    # one token at a time, and one row, because programs have products of their own for it
    config, parts = wide_config(d), [beyond(d, 64), 1, 1]
    tensors, tokens = drawn_tensors(d, config, 0.25), Many(d).integers(sum(parts), 0, config["vocab_size"] - 1)[None]
    t.saw(WIDE)
    inputs = {"config": config, "tensors": tensors, "tokens": tokens, "parts": parts}
    t.case("generate.read", inputs)


@property_of(
    "generate.fork-large",
    "GEN-001",
    "generate",
    "generate.fork",
    sees=("a context above 256 tokens", "branches of other lengths"),
    seeded=1,
)
def _fork(d: Draw, t: Trial) -> None:
    """Branches of many tokens from one long context see this context and their own tokens only."""
    config = _SLIDES | {"sliding_window": d.integer(40, 300)}
    tensors = drawn_tensors(d, config, 1.0)
    first, lengths = beyond(d, 256), [beyond(d, 64), 1, beyond(d, 128)]
    rows, *branches = (ids(d.integers(2 * n, 0, config["vocab_size"] - 1)).reshape(2, n) for n in (first, *lengths))
    t.saw("a context above 256 tokens", first > 256)
    t.saw("branches of other lengths", len(set(lengths)) > 1)
    inputs = {"config": config, "tensors": tensors, "tokens": rows, "branches": branches}
    t.case("generate.fork", inputs)


@property_of(
    "generate.text-large",
    "GEN-003 GEN-007",
    "generate",
    "generate.text",
    sees=("a prompt above 256 tokens and a rest", "a prompt above 512 tokens and a rest"),
    seeded=1,
)
def _text(d: Draw, t: Trial) -> None:
    """A text behind a long prompt is one pick after another, each behind all tokens of the prompt."""
    for least in (256, 512):
        for _ in range(_TRIED):
            config = _SLIDES | {"sliding_window": d.integer(40, 300)}
            tensors = drawn_tensors(d, config, 1.5)
            prompt = d.integers(beyond(d, least), 0, config["vocab_size"] - 1)
            inputs: dict[str, Any] = {"config": config, "tensors": tensors, "prompt": prompt, "stops": []}
            inputs |= {"max_tokens": 3, "temperature": 1.0, "seed": d.integer(0, 2**40)}
            tokens, gap = generate.text(config, tensors, prompt, [], 3, inputs)
            if gap >= 1e-3:
                t.saw(f"a prompt above {least} tokens and a rest")
                t.case("generate.text", inputs, {"tokens": ids(tokens)})
                break
