"""Teach a pruned model from prompts and completions, with TRL; the loss is on the completions only.

    python -m examples.peft_instruct PRUNED_HF TUNED --data train.jsonl

Each line of the file is {"prompt": ..., "completion": ...}. It needs the extra `trl`.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from seft_ports.peft import SeftCallback, SeftConfig, SeftOptimizer, stored_weights


def main(
    pruned: Annotated[Path, typer.Argument(help="Hugging Face folder of a pruned model.", exists=True)],
    tuned: Annotated[Path, typer.Argument(help="Folder to make.")],
    data: Annotated[Path, typer.Option(help="Prompts and completions, one JSON object a line.", exists=True)],
    steps: Annotated[int, typer.Option(min=1)] = 60,
    lr: Annotated[float, typer.Option(min=0)] = 1e-3,
    length: Annotated[int, typer.Option(min=2, help="Tokens of an example at most.")] = 256,
) -> None:
    """Fine-tune a pruned model on instructions, and write the adapter and the merged model."""
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    examples = Dataset.from_list([{key: line[key] for key in ("prompt", "completion")} for line in lines])
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    base = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    model = get_peft_model(base, SeftConfig(density=0.02, evolve_until=0.75))
    arguments = SFTConfig(
        str(tuned / "run"),
        max_steps=steps,
        per_device_train_batch_size=4,
        lr_scheduler_type="linear",
        max_length=length,
        completion_only_loss=True,
        logging_steps=10,
        save_strategy="no",
        bf16=False,
        report_to=[],
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=examples,
        processing_class=tokenizer,
        callbacks=[SeftCallback()],
        optimizers=(SeftOptimizer(model, lr=lr), None),
    )
    trainer.train()
    model.save_pretrained(tuned / "adapter")
    model = model.merge_and_unload()
    print(stored_weights(model))
    model.save_pretrained(tuned / "hf")
    tokenizer.save_pretrained(tuned / "hf")


if __name__ == "__main__":
    typer.run(main)
