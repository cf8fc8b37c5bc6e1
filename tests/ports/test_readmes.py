"""The Python of the ports' READMEs runs on a tiny pruned model, with fewer steps.

One block of the PyTorch port loses its pattern, which only a model of that pattern takes.
"""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402

PORTS = Path(__file__).resolve().parents[2] / "seft_ports"
SHORTER = {"max_steps=2000": "max_steps=4", "max_steps=300": "max_steps=4", "steps=300": "steps=8"}
SHORTER |= {"evolve_every=100": "evolve_every=2", "event_batches=8": "event_batches=3"}
LEFT_OUT = ("to_semi_structured", "fsdp=True", "BitsAndBytesConfig")
"""Blocks for a GPU, for several processes, and for a library that is not installed."""

pytestmark = pytest.mark.filterwarnings("default")


class Tokenizer:
    """In the place of a tokenizer, which a tiny model has none of."""

    def save_pretrained(self, folder):
        assert Path(folder, "config.json").is_file()


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What a reader of a README has: a pruned folder, data, and functions of their own."""
    monkeypatch.chdir(tmp_path)
    plain = tiny.model()
    dice = torch.Generator().manual_seed(1)
    for linear in targets_of(plain).values():
        for group in linear.weight.data.view(-1, 2):
            group[int(torch.randint(0, 2, (1,), generator=dice))] = 0.0
    plain.save_pretrained("pruned-hf")
    rows = torch.stack([row["input_ids"] for row in tiny.texts(64)]).split(4)
    given = {"data": tiny.texts(16), "tokenizer": Tokenizer(), "some_batches": rows[:2]}
    given |= {"batches": rows[:8], "next_seven": lambda step: rows[step : step + 2]}
    given["batch_of"] = lambda step: {"input_ids": rows[step], "labels": rows[step]}
    given["loss_of"] = lambda batch: given["model"](input_ids=batch, labels=batch).loss
    return given


def blocks(port, but=()):
    """The Python blocks of a README, with fewer steps."""
    text = (PORTS / port / "README.md").read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if not any(x in one for x in but)]


def run(block, given):
    exec(compile(block, "README.md", "exec"), given)


def test_the_readme_of_the_pytorch_port(names):
    first, settings, loop, callback, *rest = blocks("pytorch", LEFT_OUT)
    assert rest == []
    run(first, names)
    assert Path("tuned").is_dir()
    assert Path("tuned-hf").is_dir()
    assert ", pattern=(2, 4)" in settings
    run(settings.replace(", pattern=(2, 4)", ""), names)
    run(loop, names)
    run(callback, names)


def test_the_readme_of_the_tuner_of_peft(names, capsys):
    first, second, loop, load, *rest = blocks("peft", LEFT_OUT)
    assert rest == []
    run(first, names)
    assert "weights are stored" in capsys.readouterr().out
    run(second, names)
    run("base = AutoModelForCausalLM.from_pretrained('pruned-hf', dtype='float32')\n", names)
    run("model = get_peft_model(base, SeftConfig(density=0.02, evolve_every=2))\n", names)
    names["batches"] = [names["batch_of"](step) for step in range(8)]
    run(loop, names)
    run(load, names)


def test_the_readme_of_the_jax_port(capsys):
    jax = pytest.importorskip("jax")
    (only,) = blocks("jax")
    # compiling takes longer than running
    jax.config.update("jax_disable_most_optimizations", val=True)
    try:
        run(only, {})
    finally:
        jax.config.update("jax_disable_most_optimizations", val=False)
    assert len(capsys.readouterr().out.split("]")) == 3
