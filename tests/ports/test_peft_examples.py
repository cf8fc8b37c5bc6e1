"""The examples with PEFT, on a tiny model: they run as written, and what they write is as sparse as what they read."""

import json
import math
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import tokenizers  # noqa: E402

import formats  # noqa: E402
from examples import peft_repair, push_update  # noqa: E402
from tests.ports.peft_tiny import pruned  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
WORDS = [f"w{i}" for i in range(16)]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A pruned tiny model with a tokenizer of words, and a text."""
    plain, masks = pruned(max_position_embeddings=256)
    plain.save_pretrained(tmp_path / "pruned")
    save_tokenizer(tmp_path / "pruned")
    (tmp_path / "text").write_text(" ".join(WORDS[i * i % 13] for i in range(4000)))
    monkeypatch.chdir(tmp_path)
    return sum(int(mask.sum()) for mask in masks.values())


def save_tokenizer(folder):
    """Write a tokenizer of words."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate([*WORDS, "?"])}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="?", pad_token="?").save_pretrained(folder)


def zeros(model):
    layers = [m for n, m in model.named_modules() if n.endswith("_proj")]
    return sum(int((layer.weight != 0).sum()) for layer in layers)


def test_peft_repair(inputs, tmp_path):
    peft_repair.main(Path("pruned"), Path("tuned"), Path("text"), Path("text"), preset="seft", steps=25, length=16)
    tuned = transformers.AutoModelForCausalLM.from_pretrained("tuned/hf")
    assert 0 < zeros(tuned) <= inputs
    sparse = formats.read(tmp_path / "tuned" / "sparse")
    assert sum(x.nnz for x in sparse.tensors.values() if isinstance(x, formats.Sparse)) == inputs


def test_the_page_of_other_families(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"vocab_size": 17, "pad_token_id": 16, "bos_token_id": 16, "eos_token_id": 16}
    transformers.PhiForCausalLM(transformers.PhiConfig(**sizes, **special)).save_pretrained("phi")
    save_tokenizer("phi")
    Path("text").write_text(" ".join(WORDS[i * i % 13] for i in range(4000)))
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "other-families.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "other-families.md", "exec"), {})
    peft_repair.main(Path("pruned-hf"), Path("tuned"), Path("text"), Path("text"), preset="seft", steps=25, length=16)
    kept = {name: math.ceil(0.4 * size) for name, size in {"self_attn": 16 * 16, "mlp": 16 * 24}.items()}
    for command in re.findall(r"^seft convert (\S+) (\S+) --to (\w+)( --compress zstd)?", page, re.MULTILINE):
        source, destination, to, compress = command
        formats.convert(source, destination, to, compress="zstd" if compress else None)
    back = transformers.AutoModelForCausalLM.from_pretrained("back")
    merged = transformers.AutoModelForCausalLM.from_pretrained("tuned/hf")
    for name, layer in back.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            assert int((layer.weight != 0).sum()) <= next(n for part, n in kept.items() if part in name), name
            assert torch.equal(layer.weight, merged.get_submodule(name).weight)


def test_the_notebook(inputs, monkeypatch):
    cells = json.loads((Path(__file__).parents[2] / "examples" / "peft_repair.ipynb").read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for file, here in (("quick/pruned-hf", "pruned"), ("text/train.txt", "text"), ("text/valid.txt", "text")):
        source = source.replace(f"demo/{file}", here)
    said = {}
    exec(compile(source.replace("STEPS = 60", "STEPS = 3"), "peft_repair.ipynb", "exec"), said)
    assert said["stored_weights"](said["merged"]).stored == inputs
    assert Path("tuned/sparse").is_dir()


def test_push_update(inputs, tmp_path, capsys):
    # one after the other: two threads that load models at once leave transformers with weights that it does not tie
    push_update.train(Path("pruned"), Path("steps"), Path("text"), until=8, every=2)
    push_update.serve(Path("pruned"), Path("steps"), "w1 w2", until=3)
    assert "version 3:" in capsys.readouterr().out
    # a server that was there from the first version on changes its own tensors
    model = transformers.AutoModelForCausalLM.from_pretrained("pruned", dtype=torch.float32)
    push_update.take(model, tmp_path / "steps" / "000000.model")
    for number in (1, 2, 3):
        push_update.change(model, tmp_path / "steps" / f"{number:06d}.delta")
    newest = formats.read(tmp_path / "steps.newest")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, torch.from_numpy(formats.to_dense(newest.tensors[name]).copy()))


def test_peft_instruct(inputs, tmp_path):
    pytest.importorskip("trl")
    from examples import peft_instruct

    lines = [{"prompt": f"w{i % 7} w2", "completion": f" w{i % 5} w{i % 3}", "id": i} for i in range(20)]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    peft_instruct.main(Path("pruned"), Path("tuned"), Path("data.jsonl"), steps=22)
    assert 0 < zeros(transformers.AutoModelForCausalLM.from_pretrained("tuned/hf")) <= inputs
