"""A trainer with a PEFT adapter that pushes sparse deltas, and a process that generates with the newest weights.

    python -m examples.push_update train PRUNED_HF STEPS --text train.txt
    python -m examples.push_update serve PRUNED_HF STEPS "Once upon a time"

They are two processes, and STEPS is a folder that both can access. A version is the trainer's model with its adapter
merged. From one version to the next, the trainer writes only the positions that changed. The server copies those into
its own model, which it loads only once.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from formats import Mask, Sparse, flat, to_dense
from formats.dialects.torch_tensors import to_torch
from formats.reader import open_checkpoint
from formats.steps import Follower, Publisher
from seft_ports.peft import Evolution, SeftConfig, SeftOptimizer, checkpoint_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Pruned = Annotated[Path, typer.Argument(help="Hugging Face folder of a pruned model.", exists=True)]
Steps = Annotated[Path, typer.Argument(help="Folder of versions.")]


@app.command()
def train(
    pruned: Pruned,
    steps: Steps,
    text: Annotated[Path, typer.Option(help="Text to train on.", exists=True)],
    until: Annotated[int, typer.Option(min=1, help="Steps to train.")] = 40,
    every: Annotated[int, typer.Option(min=1, help="Steps from one version to the next.")] = 10,
    lr: Annotated[float, typer.Option(min=0)] = 2e-3,
) -> None:
    """Train an adapter, and publish the model with it."""
    ids = torch.tensor(AutoTokenizer.from_pretrained(pruned)(text.read_text(encoding="utf-8")).input_ids)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32), SeftConfig(preset="seft"))
    optimizer = SeftOptimizer(model, lr=lr)
    evolution = Evolution(model, optimizer, model.peft_config["default"].settings(), until, micro_batches=1)
    evolution.attach(max_norm=1.0)
    dice = torch.Generator().manual_seed(0)
    with Publisher(steps, "repair") as publisher:
        for step in range(1, until + 1):
            starts = torch.randint(len(ids) - 128, (2,), generator=dice)
            batch = torch.stack([ids[start : start + 128] for start in starts])
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % every == 0:
                number = publisher.publish(checkpoint_of(model))
                size = sum(path.stat().st_size for path in steps.glob(f"{number:06d}.*"))
                print(f"step {step}, loss {float(loss.detach()):.3f}, version {number}, {size:,} bytes", flush=True)


@app.command()
def serve(
    pruned: Pruned,
    steps: Steps,
    prompt: Annotated[str, typer.Argument(help="Text to go on from.")],
    until: Annotated[int, typer.Option(min=0, help="Version to end with.")] = 3,
) -> None:
    """Follow the versions, and generate text with each new one."""
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32).eval()
    asked = tokenizer(prompt, return_tensors="pt")
    have: int | None = None
    with Follower(steps, steps.with_suffix(".newest")) as follower:
        while follower.version is None or follower.version < until:
            newest = follower.poll()
            if newest is None:
                time.sleep(0.2)
                continue
            if have is None:
                take(model, follower.path)
            else:
                for number in range(have + 1, newest + 1):
                    change(model, steps / f"{number:06d}.delta")
            have = newest
            answer = model.generate(**asked, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.eos_token_id)
            print(f"version {newest}:", tokenizer.decode(answer[0], skip_special_tokens=True), flush=True)


@torch.no_grad()
def take(model: Any, file: Path) -> None:
    """Copy the weights of a version into a model."""
    with open_checkpoint(file) as newest:
        for name, parameter in model.named_parameters():
            tensor = newest[name]
            if isinstance(tensor, Sparse):
                parameter.zero_()
                parameter.view(-1)[torch.from_numpy(flat(tensor))] = torch.from_numpy(tensor.values.copy())
            else:
                parameter.copy_(to_torch(to_dense(tensor), name=name))


@torch.no_grad()
def change(model: Any, delta: Path) -> None:
    """Copy the changes of a delta into a model that has the version before it."""
    parameters = dict(model.named_parameters())
    with open_checkpoint(delta) as changes:
        for stored in changes:
            operation, _, name = stored.partition(":")
            tensor, weights = changes[stored], parameters[name].view(-1)
            if isinstance(tensor, Mask):
                weights[torch.from_numpy(flat(tensor))] = 0
            elif operation == "replace" and isinstance(tensor, Sparse):
                weights[torch.from_numpy(flat(tensor))] = torch.from_numpy(tensor.values.copy())
            else:
                parameters[name].copy_(to_torch(to_dense(tensor), name=name))


if __name__ == "__main__":
    app()
