"""Train the small dense model of the screening, on which thousands of steps are cheap:

    python -m experiments.small_model FOLDER REPAIR.txt SHIFT.txt

A LLaMA of four layers, hidden 96, with 442,368 weights in its target matrices and a vocabulary of 1,024. Three quarters
of every batch are of the first text, the rest of the second. FOLDER must not exist.
"""

import argparse
from pathlib import Path

from seft_cli import console

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS = 1024, 96, 256, 4, 4
LENGTH = 128
"""tokens of a row"""
ROWS = (24, 8)
"""rows of a batch from the first text and from the second"""
STEPS = 1500
RATE = 3e-3
SEED = 0


def train(folder: Path, texts: tuple[Path, Path], steps: int = STEPS) -> float:
    """Train tokenizer and model on both texts, write a Hugging Face folder, and return the loss of the last step.

    Raises:
        Refused: if the folder is there already, or a text has fewer tokens than a row.
    """
    if folder.exists():
        raise console.Refused(f"{folder} is there already; name a new folder")
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train([str(text) for text in texts], vocab_size=VOCABULARY, show_progress=False)
    streams = [torch.tensor(bpe.encode(text.read_text(encoding="utf-8")).ids) for text in texts]
    for text, stream in zip(texts, streams, strict=True):
        if len(stream) <= LENGTH:
            raise console.Refused(f"{text} has {len(stream)} tokens; a row takes {LENGTH + 1}")
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(SEED)
    loss = torch.tensor(0.0)
    with console.progress("dense model", steps) as advance:
        for _ in range(steps):
            rows = []
            for stream, count in zip(streams, ROWS, strict=True):
                starts = torch.randint(len(stream) - LENGTH, (count,), generator=generator)
                rows += [stream[start : start + LENGTH] for start in starts.tolist()]
            batch = torch.stack(rows)
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(f"loss {loss.item():.3f}")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(folder)
    return loss.item()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("repair", type=Path, help="the text that the model is pruned and repaired on")
    parser.add_argument("shift", type=Path, help="the text of the shift")
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args()
    loss = train(asked.folder, (asked.repair, asked.shift), asked.steps)
    console.out.print(f"{asked.folder}: loss {loss:.3f} at the last of {asked.steps} steps")


if __name__ == "__main__":
    main()
