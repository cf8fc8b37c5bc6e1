"""Tiny model folders on disk: seeded weights, a byte-level tokenizer, and a text, all without a hub."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from formats.container import dtype_name
from formats.dialects.hf import to_sparse, write_hf
from formats.dialects.stock import outline
from seft_ref.model.config import ModelConfig

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
TEXT = "the quick brown fox jumps over the lazy dog. " * 40 + "pack my box with five dozen liquor jugs! " * 20


def parameters(config=CONFIG, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in ModelConfig.from_json(config).parameters().items():
        values = rng.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.1) + (len(shape) == 1)
        found[name] = values.astype(dtype)
    return found


def write_tokenizer(folder: Path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def hf_folder(folder: Path, config=CONFIG, tensors=None, dtype=np.float32, shard_bytes=5_000_000_000):
    """Write a Hugging Face folder and return it."""
    tensors = parameters(config, dtype=dtype) if tensors is None else tensors
    outlines = [outline(name, dtype_name(values.dtype), values.shape) for name, values in tensors.items()]
    files = {"config.json": json.dumps(config).encode(), "generation_config.json": b"{}"}
    write_hf(folder, outlines, tensors.__getitem__, files, shard_bytes=shard_bytes)
    write_tokenizer(folder)
    return folder


def pruned(tensors, config=CONFIG, keep=0.4, seed=1):
    """Return the tensors with the targets pruned at random."""
    rng = np.random.default_rng(seed)
    found = dict(tensors)
    for matrix in ModelConfig.from_json(config).targets():
        values = found[matrix.name].copy()
        values[rng.random(values.shape) >= keep] = 0
        found[matrix.name] = values
    return found


def sparse_folder(folder: Path, config=CONFIG, dtype=np.float32, encoding="auto"):
    """Write a sparse checkpoint of a pruned tiny model and return it."""
    source = hf_folder(folder.with_name(folder.name + "-hf"), config, pruned(parameters(config, dtype=dtype), config))
    to_sparse(source, folder, encoding=encoding)
    return folder


BF16 = ml_dtypes.bfloat16
