"""LoRA and SHiRA as PEFT trains them, on the same model, text and start (ADP-001, ADP-010)."""

import numpy as np
import pytest
import torch

import formats
import seft_ref
from seft_ref.kernels import reference
from seft_ref.topology.csr import flat
from seft_ref.train import factors, loop
from seft_ref.train.loop import step_batches
from seft_ref.train.settings import settings_of
from tests.seft_ref.folders import TEXT, hf_folder
from tests.seft_ref.tiny import dense_of

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RUN = {"steps": 4, "batch": 3, "length": 9, "lr": 0.05, "max_norm": 0.5, "weight_decay": 0.1, "rank": 2, "seed": 3}
# transformers computes norms and attention weights in float32, whatever the dtype of the model
BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    (folder / "text.txt").write_text(TEXT)
    hf_folder(folder / "dense")
    seft_ref.prune(folder / "dense", folder / "pruned", "magnitude", 0.6)
    formats.convert(folder / "pruned", folder / "sparse", "sparse")
    return folder


def trained_by_peft(folder, config, fill, settings, batches):
    """Losses and merged weights of a run of PEFT, whose adapters `fill` starts."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "pruned", dtype=torch.float64, attn_implementation="eager"
    )
    model = peft.get_peft_model(model, config).double()
    modules = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()}
    fill(modules)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=RUN["weight_decay"])
    losses = []
    for batch in batches:
        tokens = torch.tensor(batch)
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {n: p.detach().numpy() for n, p in model.merge_and_unload().named_parameters()}


@pytest.mark.parametrize("method", ["lora", "shira"])
def test_a_run_is_that_of_peft(method, folder):
    settings = settings_of(method, **RUN, **({"alpha": 3.0} if method == "lora" else {}))
    model = seft_ref.load_model(folder / "sparse", reference, "float64")
    tokens = seft_ref.read_tokens(folder / "text.txt", folder / "sparse")
    batches = [step_batches(settings, tokens, step, model.weights)[0] for step in range(1, settings.steps + 1)]
    if method == "lora":
        state = factors.initial_state(settings, model.config, model.weights, model.bases)
        config = peft.LoraConfig(r=2, lora_alpha=3.0, target_modules=PROJECTIONS, lora_dropout=0.0)
    else:
        state = loop.initial_state(settings, model.config, model.weights, model.bases, reference, batches[:1])
        config = peft.ShiraConfig(r=2, target_modules=PROJECTIONS, mask_type="random", random_seed=1)

    def fill(modules):
        for name, target in state.targets.items():
            module = modules[name.removesuffix(".weight")]
            if method == "lora":
                arrays = target.arrays()
                module.lora_A["default"].weight.data = torch.tensor(arrays["a"])
                module.lora_B["default"].weight.data = torch.tensor(arrays["b"])
                continue
            positions, width = flat(target.delta.topology), target.base.shape[1]
            assert len(positions) == module.shira_weight["default"].numel()
            indices = np.stack([positions // width, positions % width])
            module.shira_indices["default"] = torch.tensor(indices).to(module.shira_indices["default"].dtype)
            module.shira_weight["default"].data = torch.zeros(len(positions), dtype=torch.float64)

    losses, merged = trained_by_peft(folder, config, fill, settings, [batch.tokens for batch in batches])
    train = factors.train if method == "lora" else loop.train
    steps = list(train(state, settings, model.config, tokens, reference))
    np.testing.assert_allclose([record.loss for _, record in steps], losses, rtol=BOUND)
    last = steps[-1][0]
    if method == "lora":
        final = factors.finish(last, settings, reference)
    else:
        final = loop.finish(last, settings, model.config, tokens, reference)
    for name, (topology, values) in final.items():
        np.testing.assert_allclose(dense_of(topology, values), merged[name], atol=BOUND)
