"""seft_ports.pytorch in two processes, data-parallel or split by FSDP2: they have what one has, decide alike, save,
and resume to the bit.
"""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

import formats  # noqa: E402
from seft_ports.pytorch import SeftOptimizer, layers_of, load_sparse  # noqa: E402
from seft_ports.pytorch.model import targets_of  # noqa: E402
from tests.ports import pytorch_tiny as tiny  # noqa: E402
from tests.ports.peft_tiny import adapted  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

SIZES = {"odd": tiny.ODD, "tied": {"tie_word_embeddings": True}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    tiny.in_two("pytorch_two.py", folder)
    return folder


@pytest.fixture(scope="module")
def folder(made):
    return made / "split"


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def differ(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def compare(split, one):
    """Supports are equal, values are those of another order of summing."""
    for name in differ(split, one):
        assert name.endswith(("values", "weight", "held")), name
        assert torch.allclose(split[name], one[name], rtol=1e-3, atol=1e-6), name


def refreshed(made):
    for layer in layers_of(made).values():
        layer.refresh()
    return made.state_dict()


def check_file(path, state, **sizes):
    """The file has the effective weights and the supports of a run."""
    fresh = load_sparse(tiny.model(seed=5, **sizes), path)
    for name, linear in targets_of(fresh).items():
        slots = state[f"{name}.positions"]
        support = state[f"{name}.mask"].clone()
        support.view(-1)[slots[slots < support.numel()]] = True
        assert torch.equal(linear.seft_mask, support)
        assert torch.equal(linear.weight, state[f"{name}.weight"])
    rest = {name: x for name, x in fresh.state_dict().items() if "_proj" not in name}
    assert differ(rest, {name: state[name] for name in rest}) == []


@pytest.mark.parametrize("name", ["odd", "tied"])
def test_two_processes_that_split_a_model_decide_and_hold_what_one_does(name, folder, ranks):
    made = tiny.wrapped(tiny.IN_TWO[name], **SIZES[name])
    made = tiny.also_trained(made) if name == "odd" else made
    optimizer = SeftOptimizer(made, lr=0.01)
    texts = torch.stack([row["input_ids"] for row in tiny.texts(tiny.STEPS * tiny.ROWS)])
    texts = texts.view(tiny.STEPS, tiny.ROWS, -1)
    events = tiny.loop(made, tiny.IN_TWO[name], optimizer, lambda t: texts[t - 1].tensor_split(2), name == "odd")
    want = [{n: [d.dropped.tolist(), d.grown.tolist(), d.pruned.tolist()] for n, d in one.items()} for one in events]
    n = 14 if name == "odd" else 7
    assert [len(one) for one in want] == [0, 0, n, 0, 0, n, 0]
    for rank in ranks:
        found = [{n: [x.tolist() for x in d] for n, d in one.items()} for one in rank[name]["decided"]]
        assert found == want
        compare(rank[name]["state"], refreshed(made))
        for split, layer in zip(rank[name]["kept"], layers_of(made).values(), strict=True):
            kept = optimizer.kept(layer)
            assert torch.equal(split["age"], kept["age"])
            assert torch.allclose(split["first_moment"], kept["first_moment"], rtol=1e-3, atol=1e-6)
        logits = made(input_ids=texts[0, :1] * 0 + 1).logits
        assert torch.allclose(rank[name]["logits"], logits, rtol=1e-3, atol=1e-5)
    assert differ(ranks[0][name]["state"], ranks[1][name]["state"]) == []
    check_file(folder / name, ranks[0][name]["state"], **SIZES[name])
    # a head that the config ties is not named, as in stock files
    saved = formats.read(folder / name)
    assert ("lm_head.weight" in saved.tensors, saved.tied) == (name != "tied", {})


@pytest.mark.parametrize("name", ["full", "sharded"])
def test_trn_004_a_trainer_splits_and_resumes_to_the_same_bits(name, folder, ranks, tmp_path):
    settings = tiny.IN_TWO[name]
    one = tiny.trainer(tiny.wrapped(settings), tmp_path, settings)
    one.train()
    for rank in ranks:
        assert rank[name]["events"] == tiny.events(one)
        compare(rank[name]["state"], refreshed(one.model))
        assert differ(rank[name]["state"], rank[name]["resumed"]) == []
    assert differ(ranks[0][name]["state"], ranks[1][name]["state"]) == []
    if name == "sharded":
        check_file(folder / "trainer", ranks[0][name]["state"])


@pytest.mark.parametrize("name", tiny.STREAMS)
def test_evt_002_two_processes_form_a_gradient_block_by_block_and_decide_as_one(name, made):
    first, second = (torch.load(made / "parallel" / f"rank-{rank}.pt")[f"streams {name}"] for rank in (0, 1))
    one = tiny.wrapped(tiny.STREAMS[name])
    optimizer = SeftOptimizer(one, lr=0.01)
    events = tiny.loop(one, tiny.STREAMS[name], optimizer, lambda t: tiny.short_rows(t, name))
    want = [{n: [d.dropped.tolist(), d.grown.tolist(), d.pruned.tolist()] for n, d in one.items()} for one in events]
    assert [len(one) for one in want] == [0, 0, 7, 0, 0, 7, 0]
    for rank in (first, second):
        assert [{n: [x.tolist() for x in d] for n, d in one.items()} for one in rank["decided"]] == want
        compare(rank["state"], one.state_dict())
    assert differ(first["state"], second["state"]) == []
    # three tokens have fewer numbers than a gradient of 8 x 8, or two sums of 4 x 8; four have fewer than one of 8 x 10
    shapes = {"token-fisher": {(8, 8), (8, 10), (10, 8)}, "uneven": {(8, 10), (10, 8)}}
    assert set(first["taken"]) == set(second["taken"]) == shapes.get(name, {(4, 8), (8, 8), (8, 10), (10, 8)})


@pytest.mark.parametrize("name", ["parallel", "spiel", "adapter"])
def test_two_data_parallel_processes_have_the_same_support_and_that_of_one(name, made, tmp_path):
    settings = tiny.IN_TWO[name]
    wrapped = adapted(preset="seft") if name == "adapter" else tiny.wrapped(settings, seed=1)
    optimizer = SeftOptimizer(wrapped, lr=0.01, kind=settings.optimizer)
    one = tiny.trainer(wrapped, tmp_path, settings, None, (optimizer, None))
    one.train()
    first, second = (torch.load(made / "parallel" / f"rank-{rank}.pt")[name] for rank in (0, 1))
    # a run of two processes goes on with one, as after a restart with fewer machines
    (checkpoint,) = (made / "parallel" / name / "out").glob(f"checkpoint-{2 if name == 'parallel' else 3}")
    other = adapted(preset="seft") if name == "adapter" else tiny.wrapped(settings, seed=1)
    optimizer = SeftOptimizer(other, lr=0.01)
    alone = tiny.trainer(other, tmp_path / "alone", settings, None, (optimizer, None))
    alone.train(resume_from_checkpoint=str(checkpoint))
    assert all(one["pruned"] > 0 for one in first["events"][:2])
    assert differ(first["state"], second["state"]) == []
    # TRN-004
    assert differ(first["state"], first["resumed"]) == differ(first["state"], second["resumed"]) == []
    assert first["events"] == second["events"] == tiny.events(one)
    assert first["data"] != second["data"]
    for mine in (one.model.state_dict(), alone.model.state_dict()):
        assert [n for n in differ(first["state"], mine) if n.endswith(("mask", "positions", "indices", "pruned"))] == []
        values = [n for n in mine if n.endswith("values")]
        assert all(torch.allclose(first["state"][n], mine[n], rtol=1e-3, atol=1e-6) for n in values)
