"""Runs the tests that PEFT has for its own tuners, with SEFT in the place of one of them.

    python -m tests.ports.peft_own PEFT-0.21.2.tar.gz [--page docs/results/peft-tests.md]

The archive is PEFT's source distribution: `pip download --no-deps --no-binary :all: peft==0.21.2`. Its tests import
`datasets`, which the extra `trl` brings. They are copied into a folder of their own, where every line about
Super-Tuning, PEFT's sparse tuner, is made one about SEFT. The models that they take from the hub are made here, with
random weights, at the paths that stand for their names.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET  # of a file that pytest writes here
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

VERSION = "0.21.2"
DIGEST = "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e"
"""SHA-256 of the archive of this version."""

FILES = (
    "config",
    "custom_models",
    "decoder_models",
    "encoder_decoder_models",
    "feature_extraction_models",
    "seq_classifier",
)
"""The files that go through PEFT's tuners, without `test_` before and `.py` behind."""

FILES_LEFT_OUT = {
    "supertuning, initialization": "What they say of Super-Tuning is about its own options, indices and files.",
    "torch_compile, quantization, token_classification_qa, vision_models": (
        "They name the tuners that they go through, and Super-Tuning is none of them. Of SEFT, tests/ports has tests "
        "of compiled models and of quantised bases."
    ),
    "mixed, target_parameters": "SEFT is not mixed with other tuners, and changes linear layers alone.",
    "low_level_api, tuners_utils, other, helpers, mapping, auto, hub_features, integrations, bufferdict": (
        "They are about functions that all tuners share, and try them with LoRA."
    ),
    "common_gpu, gpu_examples, gptqmodel, stablediffusion": "They need a GPU, GPTQModel or diffusers.",
    "all others": "Each is about one other tuner, whose name it has.",
}
"""The files that are not run, with the reason."""

LEFT_OUT = {
    "(test_adapter_dtype_autocast and False-) or no_autocast_adapter_dtype": (
        "They ask for an adapter in 16 bits; φ is float32, whatever the base is (DLT-003.4)."
    ),
}
"""What is not run, as an expression of pytest's `-k`, with the reason."""

SIZES = {"vocab_size": 1100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = SIZES | {"intermediate_size": 32, "num_key_value_heads": 2, "pad_token_id": 0}
BERT = SIZES | {"intermediate_size": 32}
GPT2 = {"vocab_size": 1100, "n_embd": 16, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
DECODER = "ForCausalLM"
MODELS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        *("OPT", DECODER),
        SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2", "LMHeadModel", GPT2),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2", "LMHeadModel", GPT2),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJ", DECODER, GPT2 | {"rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("Llama", DECODER, LLAMA),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("Mistral", DECODER, LLAMA),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2", DECODER, LLAMA),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3", DECODER, LLAMA | {"head_dim": 4}),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        *("T5", "ForConditionalGeneration"),
        {"vocab_size": 1100, "d_model": 16, "d_ff": 32, "d_kv": 4, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        *("Bart", "ForConditionalGeneration"),
        {"vocab_size": 1100, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 2}
        | {"decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    ),
    "peft-internal-testing/tiny-random-BertModel": ("Bert", "Model", BERT),
    "peft-internal-testing/tiny-random-RobertaModel": ("Roberta", "Model", BERT),
    "peft-internal-testing/tiny-random-DebertaModel": ("Deberta", "Model", BERT),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2", "Model", BERT),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": ("Bert", "ForSequenceClassification", BERT),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "Roberta",
        "ForSequenceClassification",
        BERT,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": ("Llama", "ForSequenceClassification", LLAMA),
}
"""The models of the hub that the tests name, and how a small one is made: family, kind and sizes."""

Outcome = tuple[str, str, str]
"""The name of a test, passed, skipped or failed, and why."""


def translated(text: str) -> str:
    """Return a file of PEFT's tests with SEFT where Super-Tuning was."""
    if "SupertuningConfig" not in text:
        return text
    text = re.sub(r"^    SupertuningConfig,\n", "", text, count=1, flags=re.MULTILINE)
    text = (
        text.replace("SupertuningConfig", "SeftConfig")
        .replace('"supertuning"', '"seft"')
        .replace("Supertuning", "SEFT")
    )
    # its options: how much is trained, and two that SEFT has no equal for
    text = re.sub(r'"sparsity": [0-9.]+', '"density": 0.5, "preset": "static", "initial_positions": "random"', text)
    options = 'density=0.5, preset="static", initial_positions="random"'
    text = text.replace("partial(config_cls, sparsity=0.5)", f"partial(config_cls, {options})")
    sparse = re.compile(r"(SeftConfig,(?:\s*\{[^}]*\},?)+)")
    text = sparse.sub(lambda found: re.sub(r'\s*"(?:r|select_top)": \w+,?', "", found[1]), text)
    at = re.search(r"^import (pytest|torch|copy|tempfile)", text, flags=re.MULTILINE)
    assert at is not None, "the imports of the file have another shape"
    return f"{text[: at.start()]}from seft_ports.peft import SeftConfig\n{text[at.start() :]}"


def make_models(folder: Path) -> None:
    """Make the models that the tests take from the hub."""
    import torch
    import transformers

    torch.manual_seed(0)
    for name, (family, kind, sizes) in MODELS.items():
        config_class = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
        getattr(transformers, family + kind)(config_class(**sizes)).save_pretrained(folder / name)
    # an adapter of another tuner, whose configuration every tuner has to read
    from peft import LoraConfig

    LoraConfig(r=8).save_pretrained(folder / "peft-internal-testing" / "tiny-opt-lora-revision")


def run(archive: Path, folder: Path) -> list[Outcome]:
    """Run the tests in a folder, and return what became of each that is about SEFT."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != DIGEST:
        msg = f"{archive} has the SHA-256 {digest}, that of peft {VERSION} is {DIGEST}"
        raise SystemExit(msg)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    tests = folder / f"peft-{VERSION}" / "tests"
    (tests / "__init__.py").touch()
    for path in tests.glob("test_*.py"):
        path.write_text(translated(path.read_text(encoding="utf-8")), encoding="utf-8")
    # they import it for one test of image models
    (tests.parent / "diffusers.py").write_text("class StableDiffusionPipeline: ...\n", encoding="utf-8")
    make_models(tests.parent)
    left_out = " or ".join(f"({expression})" for expression in LEFT_OUT)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{Path(__file__).parents[2]}:{tests.parent}"}
    # their own configuration measures coverage; -c sets it aside
    how = f"-q -n 2 -W ignore -p no:cacheprovider -c {os.devnull} --rootdir . --junitxml=out.xml".split()
    what = ["-k", f"(SEFT or Seft) and not ({left_out})", *(f"tests/test_{name}.py" for name in FILES)]
    command = [sys.executable, "-m", "pytest", *how, *what]
    subprocess.run(command, cwd=tests.parent, env=environment, check=False)
    return [_outcome(case) for case in ET.parse(tests.parent / "out.xml").iter("testcase")]


def _outcome(case: ET.Element) -> Outcome:
    name = f"{case.get('classname', '')}.{case.get('name', '')}"
    for kind, says in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(kind)) is not None:
            return name, says, found.get("message", "")
    return name, "passed", ""


def page(outcomes: list[Outcome]) -> str:
    """Return the page of the results."""
    import torch
    import transformers

    counts = Counter((name.rpartition(".")[0].split(".")[1], says) for name, says, _ in outcomes)
    rows = [
        [f"test_{f}.py", *(str(counts[f"test_{f}", says]) for says in ("passed", "skipped", "failed"))] for f in FILES
    ]
    why = Counter(re.sub(r"<class '[^']*\.(\w+)'>", r"\1", reason) for _, says, reason in outcomes if says == "skipped")
    failed = [f"- `{name}`: {reason.splitlines()[0]}" for name, says, reason in outcomes if says == "failed"]
    lines = [
        "# PEFT's own tests, on the tuner of SEFT",
        "",
        "PEFT tests every tuner by one matrix of tests.",
        f"Here SEFT takes the place of Super-Tuning in those of peft {VERSION}; the models have random weights.",
        "",
        f"torch {torch.__version__}, transformers {transformers.__version__}. To run them again:",
        "",
        "```",
        "pip install '.[trl]'",
        f"pip download --no-deps --no-binary :all: peft=={VERSION}",
        f"python -m tests.ports.peft_own peft-{VERSION}.tar.gz --page docs/results/peft-tests.md",
        "```",
        "",
        "| file | passed | skipped | failed |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "## Skipped by the tests themselves",
        "",
        "| reason | tests |",
        "|---|---|",
        *(f"| {reason} | {n} |" for reason, n in sorted(why.items())),
        "",
        "## Left out here",
        "",
        "| tests | reason |",
        "|---|---|",
        *(f"| `{expression}` | {reason} |" for expression, reason in LEFT_OUT.items()),
        "",
        "Files that are not run:",
        "",
        "| `test_…` | reason |",
        "|---|---|",
        *(f"| {names} | {reason} |" for names, reason in FILES_LEFT_OUT.items()),
        *(["", "## Failed", "", *failed] if failed else []),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the tests, print the page or write it, and end with 1 if one failed."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("archive", type=Path)
    asked.add_argument("--page", type=Path, help="write the page here")
    asked.add_argument("--folder", type=Path, help="work here and leave what was made")
    given = asked.parse_args()
    if find_spec("datasets") is None:
        sys.exit("PEFT's tests import datasets; pip install '.[trl]' in the clone brings it")
    with tempfile.TemporaryDirectory() as other:
        outcomes = run(given.archive, given.folder or Path(other))
    if given.page:
        given.page.write_text(page(outcomes), encoding="utf-8")
    else:
        print(page(outcomes))
    sys.exit(any(says == "failed" for _, says, _ in outcomes))


if __name__ == "__main__":
    main()
