"""Train a model by one method of PEFT and print the result, in a process of its own, so that its memory is measured.

    python -m benchmarks.peft_child JSON

JSON is an object with the fields of `Asked`. The last line of standard output is an object with the result.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEFT = ("seft", "active-only", "static")
METHODS = (*SEFT, "wrapped", "lora", "dora", "shira", "super-tuning", "masked")
"""Three presets of our tuner; `wrapped`, our port without PEFT; four tuners of PEFT; `masked`, AdamW on every stored
weight."""


@dataclass(frozen=True)
class Asked:
    """The settings of one run."""

    model: str
    """a Hugging Face folder"""
    method: str
    train: str
    valid: str
    """paths of the texts to train on and to measure the loss on"""
    lr: float
    steps: int
    rows: int = 2
    length: int = 128
    density: float = 0.02
    """trained positions as a share of the projections; other methods but `masked` train about as many numbers"""
    evolve_every: int = 25
    windows: int = 40
    """windows of 256 tokens to measure the loss on; 0 measures no loss"""
    seed: int = 0


def main(asked: Asked) -> dict[str, Any]:
    """Train and merge a model, and return the settings and the measurements, in seconds and bytes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from seft_ports.pytorch.model import targets_of

    torch.manual_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    texts = [tokenizer(Path(p).read_text(encoding="utf-8")).input_ids for p in (asked.train, asked.valid)]
    train, valid = (torch.tensor(ids) for ids in texts)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    linears = targets_of(model)
    masks = {name: linear.weight.detach() != 0 for name, linear in linears.items()}
    at_load = sum(int(mask.sum()) for mask in masks.values())
    # drop these references, because wrapped layers replace the layers
    del linears
    loaded = _peak()
    dice = torch.Generator().manual_seed(asked.seed)
    starts = torch.randint(0, len(train) - asked.length, (asked.steps, asked.rows), generator=dice)
    model, optimizer, evolution = _method(asked, model, masks)
    trained = [p for group in optimizer.param_groups for p in group["params"]]

    def losses(t: int) -> Iterator[Any]:
        tokens = torch.stack([train[start : start + asked.length] for start in starts[t - 1]])
        yield model(input_ids=tokens, labels=tokens, use_cache=False).loss

    seconds, model = [], model.train()
    for t in range(1, asked.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = asked.lr * (1 - (t - 1) / asked.steps)
        begin = time.perf_counter()
        if evolution:
            evolution.before_step(t)
        for loss in losses(t):
            loss.backward()
        if evolution:
            evolution.before_optimizer(t, 1.0)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        event = bool(evolution and evolution.after_step(t))
        optimizer.zero_grad()
        seconds.append([time.perf_counter() - begin, event or (bool(evolution) and t == 1)])
    if evolution:
        evolution.finish(lambda: losses(asked.steps))
    peak = _peak()
    answer: dict[str, Any] = asdict(asked) | {"seconds": seconds, "loaded": loaded, "peak": peak}
    answer |= {"parameters": sum(p.numel() for p in trained), "at_load": at_load}
    answer |= _merged(asked, model, masks)
    if asked.windows:
        merged = answer.pop("model")
        answer["loss"] = _loss(merged, valid, asked.windows)
    answer.pop("model", None)
    return answer


def _peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _method(asked: Asked, model: Any, masks: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the model prepared for the method, its optimizer, and its Evolution, or None if it has no events."""
    import torch
    from peft import LoraConfig, ShiraConfig, SupertuningConfig, get_peft_model

    from seft_ports.peft import Evolution, SeftConfig, SeftOptimizer
    from seft_ports.pytorch import wrap
    from seft_ports.pytorch.model import TARGETS, targets_of

    every: dict[str, Any] = {"density": asked.density, "evolve_every": asked.evolve_every, "evolve_until": 0.75}
    shapes = [tuple(mask.shape) for mask in masks.values()]
    rank = round(asked.density * sum(a * b for a, b in shapes) / sum(a + b for a, b in shapes))
    if asked.method in (*SEFT, "wrapped"):
        config = SeftConfig(preset="seft" if asked.method == "wrapped" else asked.method, **every)
        settings = config.settings()
        model = wrap(model, settings, masks) if asked.method == "wrapped" else get_peft_model(model, config)
        optimizer = SeftOptimizer(model)
        return model, optimizer, Evolution(model, optimizer, settings, asked.steps, micro_batches=1)
    if asked.method == "masked":
        model.requires_grad_(requires_grad=False)
        linears = targets_of(model)
        for name, linear in linears.items():
            linear.weight.requires_grad_()
            linear.weight.register_hook(lambda gradient, mask=masks[name]: gradient * mask)
        return model, torch.optim.AdamW([x.weight for x in linears.values()], weight_decay=0.0), None
    config = {
        "lora": LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS)),
        "dora": LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), use_dora=True),
        "shira": ShiraConfig(r=rank, random_seed=asked.seed, target_modules=list(TARGETS)),
        "super-tuning": SupertuningConfig(sparsity=1 - asked.density, target_modules=list(TARGETS)),
    }[asked.method]
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    return model, optimizer, None


def _merged(asked: Asked, model: Any, masks: dict[str, Any]) -> dict[str, Any]:
    """Merge the update; return the plain model, how many of its weights are not zero, and the bytes of the adapter."""
    import torch

    from seft_ports.pytorch import merge
    from seft_ports.pytorch.model import targets_of

    size = 0
    if asked.method == "wrapped":
        merge(model)
    elif asked.method != "masked":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            size = (Path(folder) / "adapter_model.safetensors").stat().st_size
        model = model.merge_and_unload()
    stored = sum(int(torch.count_nonzero(linear.weight)) for linear in targets_of(model).values())
    return {"model": model, "stored": stored, "positions": sum(m.numel() for m in masks.values()), "adapter": size}


def _loss(model: Any, text: Any, windows: int) -> float:
    """Return the mean loss of a token over windows of 256 tokens."""
    import torch

    model.eval()
    total = 0.0
    with torch.no_grad():
        for i in range(windows):
            tokens = text[None, 256 * i : 256 * (i + 1)]
            total += float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
    return total / windows


if __name__ == "__main__":
    print(json.dumps(main(Asked(**json.loads(sys.argv[1])))))
