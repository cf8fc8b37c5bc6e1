"""Foreign adapters written with the safetensors library, as literal as their writers write them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from formats.dialects.changes import Changes
from formats.records import Dense, Sparse, flat, from_dense, to_dense

FIXTURES = Path(__file__).parent / "fixtures" / "adapters"
PREFIX = "base_model.model."


def put_adapter(folder: Path, config: dict, tensors: dict[str, torch.Tensor], metadata: dict | None = None) -> Path:
    """Write an adapter folder; names of tensors get the prefix of PEFT."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    save_file(
        {PREFIX + name: tensor for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        {"format": "pt", **(metadata or {})},
    )
    return folder


def spiel(folder: Path, *, values=None, indices=None, **config) -> Path:
    """
    A SpIEL adapter of q (3, 5), not sorted        [ .  .  1.5 . . ]
                                                   [ . -2   .  . . ]
                                                   [ .  .   .  0 . ]
    """
    values = torch.tensor([-2.0, 0.0, 1.5]) if values is None else values
    indices = torch.tensor([6, 13, 2], dtype=torch.int32) if indices is None else indices
    settings = {
        "peft_type": "SFT",
        "density": 0.01,
        "num_deltas": {"q": 3},
        "num_tunable_weights": None,
        "selection_algorithm": "rigl",
        "reselection_steps": 20,
        "initial_reselection_rate": 0.2,
        "dtype": "float32",
        "target_modules": None,
        "modules_to_save": None,
    }
    return put_adapter(folder, settings | config, {"q.sft_delta.values": values, "q.sft_delta.indices": indices})


def shira(folder: Path, *, values=None, indices=None, **config) -> Path:
    """The same changes as a SHiRA adapter."""
    values = torch.tensor([-2.0, 0.0, 1.5]) if values is None else values
    indices = torch.tensor([[1, 2, 0], [1, 3, 2]], dtype=torch.int32) if indices is None else indices
    settings = {"peft_type": "SHIRA", "r": 1, "mask_type": "random", "init_weights": True, "modules_to_save": None}
    return put_adapter(folder, settings | config, {"q.shira_weight": values, "q.shira_indices": indices})


def super_tuning(folder: Path, *, values=None, indices=None, metadata=None, **config) -> Path:
    """The same changes as a Super-Tuning adapter: a quarter of 15 positions is 3 of them."""
    values = torch.tensor([-2.0, 0.0, 1.5]) if values is None else values
    indices = torch.tensor([6, 13, 2], dtype=torch.int32) if indices is None else indices
    settings = {
        "peft_type": "SUPERTUNING",
        "sparsity": 0.75,
        "select_top": True,
        "r": None,
        "lora_alpha": None,
        "lora_dropout": 0.0,
        "init_weights": True,
        "save_precomputed_indices": True,
        "target_modules": ["q"],
        "modules_to_save": None,
    }
    tensors = {"q.supertuning_values": values, "q.supertuning_indices": indices}
    return put_adapter(folder, settings | config, tensors, metadata)


def lora(folder: Path, *, a=None, b=None, names=("lora_A.weight", "lora_B.weight"), **config) -> Path:
    """A LoRA adapter of rank 2 of q (3, 5)."""
    a = torch.tensor([[1, 2, 0, -1, 0.5], [0, 1, 1, 0, -3]]) if a is None else a
    b = torch.tensor([[1.0, 0], [0.5, -1], [0, 2]]) if b is None else b
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": ["q"],
        "modules_to_save": None,
        "use_dora": False,
    }
    return put_adapter(folder, settings | config, {f"q.{name}": t for name, t in zip(names, (a, b), strict=True)})


def dense_base(shape=(3, 5), dtype=np.float32) -> dict[str, Dense]:
    return {"q.weight": Dense(np.arange(1, 1 + int(np.prod(shape))).reshape(shape).astype(dtype))}


def fixture_base() -> dict[str, Dense]:
    with np.load(FIXTURES / "base.npz") as found:
        return {name: Dense(found[name]) for name in found.files}


def merged(name: str) -> dict[str, np.ndarray]:
    """What PEFT merged."""
    with np.load(FIXTURES / f"{name}.npz") as found:
        return dict(found)


def applied(changes: Changes, base: dict[str, Dense | Sparse]) -> dict[str, np.ndarray]:
    """The base with the changes, one position after the other."""
    out = {}
    for name, tensor in base.items():
        values = to_dense(tensor).copy()
        if name in changes.tensors:
            change = changes.tensors[name]
            assert change.shape == values.shape
            for position, value in zip(flat(change).tolist(), change.values, strict=True):
                where = np.unravel_index(position, values.shape)
                values[where] = value if changes.op == "replace" else values[where] + value
        out[name] = values
    return out


def same_tensor(a: Sparse, b: Sparse) -> bool:
    """Same shape, support, dtype and bits, and the dtypes that a Sparse promises."""
    assert (a.indptr.dtype, a.indices.dtype) == (np.int64, np.int32)
    return (a.shape, a.dtype, flat(a).tolist(), a.values.tobytes()) == (
        b.shape,
        b.dtype,
        flat(b).tolist(),
        b.values.tobytes(),
    )


def some_changes(shape: tuple[int, ...], dtype: object, seed: int, share: float = 0.3) -> Sparse:
    """Changes at random positions, none of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, shape).astype(dtype)
    values[rng.random(shape) >= share] = 0
    return from_dense(values)
