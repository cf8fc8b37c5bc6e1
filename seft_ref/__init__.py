"""SEFT in plain arrays: fine-tune a pruned language model so that it stays pruned. SPEC.md is the contract.

    seft_ref.prune("dense", "pruned", "wanda", 0.7, text="calibration.txt")
    formats.convert("pruned", "pruned-sparse", to="sparse")
    done = seft_ref.finetune("pruned-sparse", "repaired-sparse", "train.txt", steps=80)
    print(seft_ref.evaluate("repaired-sparse", "valid.txt").perplexity)
    print("".join(seft_ref.generate("repaired-sparse", "Once upon a time")))

The same run step by step:

    from seft_ref.kernels import cpu

    model = load_model("pruned-sparse", cpu)
    tokens = read_tokens(Path("train.txt"), Path("pruned-sparse"))
    settings = settings_of("seft", steps=80)
    first = first_batches(settings, tokens, model.weights)
    start = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
    for state, record in train(start, settings, model.config, tokens, cpu):
        print(record.step, record.loss)
    save_model("pruned-sparse", "repaired-sparse", finish(state, settings, model.config, tokens, cpu))

A kernel set is an argument everywhere: `kernels.reference` runs on any array library, `kernels.cpu` is fast on
NumPy arrays, `kernels.gpu` runs on CuPy's. `load_model(..., like=array)` puts a model on the device of an array.

The file format is in `formats`, the conformance kit in `conformance`. Start reading in `train/loop.py`.
"""

from formats import __version__
from seft_ref.errors import SeftError
from seft_ref.files.best import Best
from seft_ref.files.model import Model, load_model, stop_tokens
from seft_ref.files.save import save_model
from seft_ref.files.state import load_state, save_state
from seft_ref.model.config import ModelConfig
from seft_ref.runs.evaluate import evaluate
from seft_ref.runs.finetune import Finetuned, Started, finetune
from seft_ref.runs.generate import generate
from seft_ref.runs.loops import RunState
from seft_ref.runs.outcome import Validation
from seft_ref.runs.prune import Pruned, prune
from seft_ref.runs.quantise import QuantisedModel, quantise
from seft_ref.runs.source import read_examples
from seft_ref.runs.tasks import TasksEvaluation, evaluate_tasks
from seft_ref.text.batch import Batch
from seft_ref.text.evaluate import Evaluation, evaluate_windows
from seft_ref.text.examples import Examples
from seft_ref.text.generate import generate_tokens
from seft_ref.text.sampling import Sampling
from seft_ref.text.tokens import read_tokenizer, read_tokens, written
from seft_ref.topology.csr import Topology
from seft_ref.train.gradients import every_gradient, loss_and_gradients
from seft_ref.train.loop import (
    StepRecord,
    TrainState,
    finish,
    first_batches,
    further_batches,
    initial_state,
    step_batches,
    train,
    train_step,
)
from seft_ref.train.settings import TrainSettings, settings_of

__all__ = [
    "Batch",
    "Best",
    "Evaluation",
    "Examples",
    "Finetuned",
    "Model",
    "ModelConfig",
    "Pruned",
    "QuantisedModel",
    "RunState",
    "Sampling",
    "SeftError",
    "Started",
    "StepRecord",
    "TasksEvaluation",
    "Topology",
    "TrainSettings",
    "TrainState",
    "Validation",
    "__version__",
    "evaluate",
    "evaluate_tasks",
    "evaluate_windows",
    "every_gradient",
    "finetune",
    "finish",
    "first_batches",
    "further_batches",
    "generate",
    "generate_tokens",
    "initial_state",
    "load_model",
    "load_state",
    "loss_and_gradients",
    "prune",
    "quantise",
    "read_examples",
    "read_tokenizer",
    "read_tokens",
    "save_model",
    "save_state",
    "settings_of",
    "step_batches",
    "stop_tokens",
    "train",
    "train_step",
    "written",
]
