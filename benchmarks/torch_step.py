"""The peer of the benchmarks in PyTorch: the same training step with dense weights.

The update is scattered into a copy of each weight, and autograd gathers its gradient from a dense one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from seft_ref.model.config import ModelConfig


class ScatteredLinear(nn.Module):
    """A linear layer whose weight is a frozen dense matrix plus values at flat positions."""

    def __init__(self, weight: Any, positions: Any) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("positions", torch.from_numpy(positions))
        self.values = nn.Parameter(torch.zeros(len(positions)))

    def forward(self, x: Any) -> Any:
        """Return x (W + update)ᵀ."""
        merged = self.weight.reshape(-1).scatter_add(0, self.positions, self.values)
        return nn.functional.linear(x, merged.view_as(self.weight))


class LoraLinear(nn.Module):
    """A linear layer with a low-rank adapter beside a frozen dense matrix."""

    def __init__(self, weight: Any, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight))
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) * 0.01)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, x: Any) -> Any:
        """Return x Wᵀ + (x Aᵀ) Bᵀ."""
        linear = nn.functional.linear
        return linear(x, self.weight) + linear(linear(x, self.a), self.b)


class TorchRun:
    """A LLaMA of transformers with scattered updates, AdamW on their values, and the same clipping as this engine."""

    def __init__(
        self,
        config: ModelConfig,
        json: Mapping[str, Any],
        dense: Mapping[str, Any],
        positions: Mapping[str, Any],
        lr: float,
        max_norm: float,
    ) -> None:
        import transformers

        self.max_norm = max_norm
        with torch.device("meta"):
            self.model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**json, attn_implementation="sdpa"))
        self.model.to_empty(device="cpu")
        for name, module in list(self.model.named_modules()):
            if "rotary" in name:
                parent = self.model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], type(module)(self.model.config))
        state = {name: torch.from_numpy(array) for name, array in dense.items()}
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, assign=True, strict=True)
        self.model.requires_grad_(False)
        self.layers = {}
        for matrix in config.targets():
            path = matrix.name.removesuffix(".weight")
            self.layers[matrix.name] = layer = ScatteredLinear(dense[matrix.name], positions[matrix.name])
            setattr(self.model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], layer)
        self.values = [layer.values for layer in self.layers.values()]
        self.optimizer = torch.optim.AdamW(self.values, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    def step(self, tokens: Sequence[Sequence[int]]) -> float:
        """Take one step on rows of tokens, which are also the labels, and return the loss."""
        batch = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.values, self.max_norm)
        self.optimizer.step()
        return float(loss.detach())
