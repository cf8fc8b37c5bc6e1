"""Log-likelihood of continuations against a second definition of the model, row by row (TSK-001 to TSK-003)."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from seft_ref.errors import GenerateError, TaskError
from seft_ref.kernels import reference
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import decoder_forward, decoder_output
from seft_ref.text import generate
from seft_ref.text.generate import generate_tokens
from seft_ref.text.score import (
    Pair,
    Score,
    blocks_of,
    blocks_of_prompts,
    check_prompt,
    generate_until,
    pair_of,
    score_items,
    score_pairs,
)
from tests.backends import BACKENDS, REFERENCE
from tests.seft_ref.families import CONFIGS, parameters_of, tokens_of, weights_of

FAMILIES = ("llama-gqa", "mistral", "qwen3")


def model_of(family, backend=REFERENCE, seed=5):
    config = ModelConfig.from_json(CONFIGS[family])
    return weights_of(config, backend.arrays(parameters_of(config, seed)), backend), config


def drawn_pairs(n=13, seed=3, vocabulary=23):
    """Pairs of odd lengths; some share a context, some read the same tokens, one continuation is greedy."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        context = tuple(rng.integers(0, vocabulary, 1 + i % 6).tolist())
        pairs += [Pair(context, tuple(rng.integers(0, vocabulary, 1 + (i + c) % 4).tolist())) for c in range(1 + i % 3)]
    pairs += [Pair((4, 9, 2), (token,)) for token in range(vocabulary)]
    return pairs


def by_definition(family, pairs, seed=5):
    """Return the scores by torch in float64, one pair at a time and nothing padded."""
    torch = pytest.importorskip("torch")
    from tests.seft_ref import torch_definition

    json, scores = CONFIGS[family], []
    named = parameters_of(ModelConfig.from_json(json), seed)
    tensors = {name: torch.tensor(value) for name, value in named.items()}
    for pair in pairs:
        whole = [*pair.context, *pair.continuation]
        logits = torch_definition.logits(json, tensors, torch.tensor([whole]))[0]
        nats, greedy = 0.0, True
        for place in range(len(pair.context), len(whole)):
            row = torch.log_softmax(logits[place - 1], 0)
            nats += row[whole[place]].item()
            greedy = greedy and int(torch.argmax(row)) == whole[place]
        scores.append(Score(nats, greedy))
    return scores


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("backend", "bound"), [("numpy-float64", 1e-10), ("numpy-float32", 1e-5)])
def test_TSK_001_scores_are_those_of_the_definition_row_by_row(family, backend, bound):
    weights, config = model_of(family, BACKENDS[backend])
    pairs = drawn_pairs()
    wanted = by_definition(family, pairs)
    found = score_pairs(pairs, weights, config, reference)
    assert [score.greedy for score in found] == [score.greedy for score in wanted]
    assert sum(score.greedy for score in wanted[-23:]) == 1
    assert [score.nats for score in found] == pytest.approx([score.nats for score in wanted], rel=bound)


@pytest.mark.parametrize("family", FAMILIES)
def test_MDL_001_the_output_without_a_cache_is_that_with_one(family):
    weights, config = model_of(family, BACKENDS["numpy-float32"])
    tokens = tokens_of(config, 4)
    for mask in (None, np.arange(7)[None, :] < np.array([[7], [3], [1]])):
        wanted, _ = decoder_forward(tokens, weights, config, reference, mask)
        assert decoder_output(tokens, weights, config, reference, mask).tobytes() == wanted.tobytes()


def test_TSK_001_other_array_libraries_give_the_same():
    backend = next(b for name, b in BACKENDS.items() if "strict" in name and b.dtype == "float64")
    pairs = drawn_pairs(5)
    weights, config = model_of("llama-gqa", backend)
    wanted = score_pairs(pairs, *model_of("llama-gqa"), reference)
    found = score_pairs(pairs, weights, config, reference)
    assert [score.nats for score in found] == pytest.approx([score.nats for score in wanted], rel=1e-11)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_TSK_001_the_items_that_are_read_at_once_do_not_matter(batch):
    backend = BACKENDS["numpy-float32"]
    weights, config = model_of("llama-gqa", backend)
    pairs = drawn_pairs()
    items = [pairs[i : i + 1 + i % 3] for i in range(0, len(pairs) - 3, 3)]
    wanted = [[score_pairs([pair], weights, config, reference)[0] for pair in item] for item in items]
    found = {}
    for block in blocks_of(items, batch):
        assert len(block) <= batch
        scores = score_items([items[i] for i in block], weights, config, reference)
        found |= dict(zip(block, scores, strict=True))
    for i, of_item in enumerate(wanted):
        assert [score.nats for score in found[i]] == pytest.approx([score.nats for score in of_item], rel=1e-5)
        assert [score.greedy for score in found[i]] == [score.greedy for score in of_item]


def test_TSK_001_the_longest_items_come_first_and_ties_keep_their_order():
    items = [[Pair((1,) * n, (2,))] for n in (3, 5, 3, 9, 5)]
    assert blocks_of(items, 2) == [[3, 1], [4, 0], [2]]
    with pytest.raises(TaskError, match="TSK-001"):
        blocks_of(items, 0)


def test_TSK_001_no_pairs_have_no_scores():
    assert score_pairs([], *model_of("llama-gqa"), reference) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_TSK_001_a_score_that_is_no_number_is_refused(bad):
    config = ModelConfig.from_json(CONFIGS["llama-gqa"])
    named = parameters_of(config, 5)
    named["lm_head.weight"][7, :] = bad
    weights = weights_of(config, named)
    with np.errstate(all="ignore"), pytest.raises(TaskError, match="TSK-001: the log-probability"):
        score_pairs([Pair((1, 2), (7,))], weights, config, reference)


def tokenizer_of(special=True):
    """A tokenizer with a token <s> in front, that has the space in front of words, and pieces that merge."""
    vocabulary = {t: i for i, t in enumerate(["?", "<s>", "a", "b", "c", "Ġ", "ab", "Ġa", "Ġab", "Ġc"])}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("Ġ", "c")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>"])
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.mark.parametrize(
    ("context", "continuation", "pair"),
    [
        ("ab c", " ab", Pair((1, 6, 9), (8,))),
        ("ab c ", "ab", Pair((1, 6, 9), (8,))),
        ("ab c  ", "ab", Pair((1, 6, 9), (5, 8))),
        # the texts together have a token that spans the cut: it counts as one of the context
        ("a", "b c", Pair((1, 2), (9,))),
    ],
)
def test_TSK_002_where_the_context_ends(context, continuation, pair):
    assert pair_of(context, continuation, tokenizer_of()) == pair
    without = pair_of(context, continuation, tokenizer_of(special=False))
    assert without == Pair(pair.context[1:], pair.continuation)


@pytest.mark.parametrize(("context", "continuation"), [("", "ab"), ("  ", "ab"), ("a", "b"), ("ab", "")])
def test_TSK_002_what_has_no_token_is_refused(context, continuation):
    with pytest.raises(TaskError, match="TSK-002"):
        pair_of(context, continuation, tokenizer_of(special=False))


def test_TSK_003_a_pair_fills_the_positions_and_no_more():
    weights, config = model_of("llama-gqa")
    score_pairs([Pair((1,) * 62, (2, 3, 4))], weights, config, reference)
    with pytest.raises(TaskError, match=r"TSK-003: .* has 65 tokens, and max_position_embeddings of the model is 64"):
        score_pairs([Pair((1,) * 63, (2, 3, 4))], weights, config, reference)


@pytest.mark.parametrize("pair", [Pair((1, 23), (2,)), Pair((1,), (23,))])
def test_TSK_003_a_token_beyond_the_vocabulary_is_refused(pair):
    with pytest.raises(TaskError, match=r"TSK-003: .* has the token 23, and vocab_size"):
        score_pairs([pair], *model_of("llama-gqa"), reference)


@pytest.mark.parametrize("pair", [Pair((1, -1), (2,)), Pair((1,), (2, -1))])
def test_TSK_003_a_token_below_0_is_refused(pair):
    with pytest.raises(TaskError, match=r"TSK-003: .* has the token -1, and vocab_size"):
        score_pairs([pair], *model_of("llama-gqa"), reference)


def test_TSK_003_a_prompt_needs_room_for_its_answer():
    _, config = model_of("llama-gqa")
    check_prompt([1] * 60, 5, config, "a prompt")
    with pytest.raises(TaskError, match="TSK-003: a prompt has 61 tokens, with an answer of 5 it needs 65"):
        check_prompt([1] * 61, 5, config, "a prompt")
    with pytest.raises(TaskError, match="has no token"):
        check_prompt([], 5, config, "a prompt")


class Letters:
    """A tokenizer whose token n is the n-th letter, with marks behind it."""

    def __init__(self, marks=""):
        self.marks = marks

    def decode(self, ids):
        return "".join(chr(ord("a") + token) + self.marks for token in ids)


def said(prompt, *arguments, **options):
    """The answer to one prompt."""
    (answer,) = generate_until([prompt], *arguments, **options)
    return answer


def test_TSK_009_an_answer_ends_in_front_of_the_first_stop_word():
    weights, config = model_of("llama-gqa")
    say = {"until": (), "max_tokens": 12}
    whole = said([3, 1], weights, config, reference, Letters(), **say)
    assert len(whole) == 12
    for first, last in ((4, 6), (0, 1), (11, 12), (5, 12)):
        word = whole[first:last]
        cut = said([3, 1], weights, config, reference, Letters(), **(say | {"until": ("zz", word)}))
        assert cut == whole[: whole.index(word)]
    both = said([3, 1], weights, config, reference, Letters(), **(say | {"until": (whole[6:9], whole[5:7])}))
    assert both == whole[: min(whole.index(whole[6:9]), whole.index(whole[5:7]))]
    # a token may bring two stop words at once
    with_marks = said([3, 1], weights, config, reference, Letters("-+"), **(say | {"until": ("+", "-")}))
    assert with_marks == whole[0]
    stop = ord(whole[3]) - ord("a")
    assert said([3, 1], weights, config, reference, Letters(), stops=[stop], **say) == whole[: whole.index(whole[3])]
    assert said([3, 1], weights, config, reference, Letters(), until=(), max_tokens=4) == whole[:4]


@pytest.mark.parametrize("backend", ["numpy-float64", "strict-device1"])
def test_TSK_009_prompts_of_one_length_are_answered_as_each_alone(backend):
    weights, config = model_of("llama-gqa", BACKENDS[backend])
    kernels = reference
    random = np.random.default_rng(5)
    prompts = random.integers(0, 20, (7, 9)).tolist()
    for say in ({"until": (), "max_tokens": 9}, {"until": ("c", "hh"), "max_tokens": 20, "stops": [4, 11]}):
        alone = [said(prompt, weights, config, kernels, Letters(), **say) for prompt in prompts]
        assert len(set(map(len, alone))) > 1 or not say["until"]
        assert generate_until(prompts, weights, config, kernels, Letters(), **say) == alone
    longer = [*prompts, [1]]
    with pytest.raises(GenerateError, match=r"GEN-002.*prompts of \[1, 9\] tokens"):
        generate_until(longer, weights, config, kernels, Letters(), until=(), max_tokens=2)
    assert blocks_of_prompts(longer, 3) == [[0, 1, 2], [3, 4, 5], [6], [7]]


def test_GEN_007_a_long_prompt_and_the_last_position_in_rows(monkeypatch):
    weights, config = model_of("llama-gqa")
    monkeypatch.setattr(generate, "PROMPT_BLOCK", 7)
    prompts = np.random.default_rng(6).integers(0, 20, (3, config.max_position_embeddings - 2)).tolist()
    for prompt, text in zip(
        prompts, generate_until(prompts, weights, config, reference, Letters(), until=(), max_tokens=9), strict=True
    ):
        tokens = list(generate_tokens(prompt, weights, config, reference, max_tokens=9))
        assert text == Letters().decode(tokens)
        assert len(tokens) == 3
