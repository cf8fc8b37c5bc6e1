"""Measure the tokens a second of a whole model, one token at a time: sparse here, dense in PyTorch and in llama.cpp.

    ours               float32, bfloat16 and codes at the given sparsity, the latter two in memory as `seft generate
                       --compact` keeps them. The head and the embedding are not pruned and stay float32
    torch              the same weights, dense, in LlamaForCausalLM of transformers with its cache, as a user calls it:
                       its time includes that of Python
    llama.cpp          the same weights, dense, as F16 and Q8_0, head included, with a cache of F16; takes part if
                       llama-cpp-python is installed

The weights are random, because the speed does not depend on them. Before anything is timed, every method reads a
prompt and one more token, and its logits are checked. They must agree with those of PyTorch in float32; the logits of
codes must agree with those of the float32 weights that the codes stand for.

PyTorch and llama.cpp have a process each, which sleeps while another method is timed (`beside`).
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import large
from benchmarks.beside import Beside
from benchmarks.rounds import JsonFile, Threads, machine, restart_in_clean_environment
from benchmarks.step import CONFIG
from seft_cli.output import write_json

SHAPES: dict[str, dict[str, Any]] = {"135m": CONFIG, "1b": large.SHAPES["1b"] | {"tie_word_embeddings": True}}
"""SmolLM2-135M, and TinyLlama-1.1B with its embedding as its head."""
PROMPT = 16
MOST = 240
"""Tokens that may follow a prompt; the context of every method holds them all."""
CODES = ("int8:g64", "int4:g64")
LLAMA = ("F16", "Q8_0")
WITHIN = {
    "ours float32": 1e-3,
    "ours bfloat16": 0.1,
    "torch bfloat16": 0.1,
    "llama.cpp F16": 0.02,
    "llama.cpp Q8_0": 0.1,
}
"""The largest difference of a logit from PyTorch's in float32 that is allowed, as a share of the largest logit."""

SAME_WEIGHTS = "weights of "
"""Prefix of the names of methods that are not timed: the float32 weights that codes are compared with."""

Reader = Callable[[list[int]], Any]
"""Reads tokens that follow those of earlier calls, and returns the logits (V,) after the last one."""
Methods = Iterator[tuple[str, Callable[[], Reader], int]]
"""Yields the name of a method, a function that starts a text and returns its reader, and the bytes of the weights."""


def tokens(
    json_file: JsonFile = None,
    threads: Threads = 1,
    shape: Annotated[str, typer.Option(help=" or ".join(SHAPES))] = "135m",
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="Share of positions that are not stored.")] = 0.7,
    count: Annotated[int, typer.Option("--tokens", min=2, max=MOST, help="Tokens that follow a prompt of 16.")] = 32,
    n_rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds in which every method runs.")] = 5,
    blocks: Annotated[int, typer.Option(min=0, help="Blocks of the model; 0 for all of them.")] = 0,
) -> None:
    """Compare the tokens a second of a sparse model with those of dense ones, in PyTorch and in llama.cpp."""
    restart_in_clean_environment(threads)
    if shape not in SHAPES:
        raise typer.BadParameter(f"--shape {shape} is none of {', '.join(SHAPES)}")
    config = SHAPES[shape] | ({"num_hidden_layers": blocks} if blocks else {})
    prompt = [int(t) for t in np.random.default_rng(1).integers(0, config["vocab_size"], PROMPT)]
    peers = [_torch, _llama] if find_spec("llama_cpp") else [_torch]
    asks: list[Callable[..., Any]] = [Beside(answers, peer, config, sparsity, threads) for peer in peers]
    asks.append(answers(_ours, config, sparsity, threads))
    method_asks, sizes = {}, {}
    for ask in asks:
        for name, n_bytes in ask().items():
            method_asks[name], sizes[name] = ask, n_bytes
    logits = {name: ask(name, prompt) for name, ask in method_asks.items()}
    timed = [name for name in logits if not name.startswith(SAME_WEIGHTS)]
    for name in timed:
        same = SAME_WEIGHTS + name
        _compare(name, logits[name], logits[same if same in logits else "torch float32"])
    paces: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(n_rounds):
        for name in timed:
            paces[name].append(method_asks[name](name, prompt, count))
    rows = []
    for name in timed:
        ratios = [a / b for a, b in zip(paces[name], paces["torch float32"], strict=True)]
        row = {"method": name, "bytes": sizes[name], "tokens a second": statistics.median(paces[name])}
        row |= {"ratio": statistics.median(ratios), "range": (min(ratios), max(ratios))}
        rows.append(row)
        print(
            f"{name:16} {sizes[name] / 1e6:8.1f} MB {row['tokens a second']:8.2f} tokens/s  "
            f"{row['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times PyTorch in float32",
            flush=True,
        )
    about = {"shape": shape, "sparsity": sparsity, "tokens": count, "rounds": n_rounds, "versions": _versions()}
    write_json(json_file, {"machine": machine(threads), **about, "rows": rows})


def answers(
    methods: Callable[[dict[str, Any], dict[str, Any], int], Methods],
    config: dict[str, Any],
    sparsity: float,
    threads: int,
) -> Callable[..., Any]:
    """Return a function that runs the methods of one process, on weights that are the same in every process."""
    dense = _made_up(config, sparsity, np.random.default_rng(0))
    begins, sizes = {}, {}
    for name, begin, n_bytes in methods(config, dense, threads):
        begins[name], sizes[name] = begin, n_bytes

    def ask(name: str | None = None, prompt: list[int] | None = None, count: int = 0) -> Any:
        """Return name -> bytes without a name; with one, logits after a prompt, or the speed over `count` tokens."""
        if name is None:
            return sizes
        # a method that is only compared is dropped, so that its memory is free while others are timed
        read = (begins.pop(name) if name.startswith(SAME_WEIGHTS) else begins[name])()
        return _pace(read, prompt or [], count) if count else _logits(read, prompt or [])

    return ask


def _pace(read: Reader, prompt: list[int], count: int) -> float:
    """Generate `count` tokens greedily after a prompt, which is not timed, and return the tokens a second."""
    token = int(np.argmax(read(prompt)))
    start = time.perf_counter()
    for _ in range(count):
        token = int(np.argmax(read([token])))
    return count / (time.perf_counter() - start)


def _logits(read: Reader, prompt: list[int]) -> Any:
    """Return the logits after a prompt and its last token once more, which is read alone as in generation."""
    read(prompt)
    return read(prompt[-1:])


def _compare(name: str, found: Any, wanted: Any) -> None:
    """Exit if logits differ from the wanted ones by more than the rounding of the method."""
    within = WITHIN.get(name, 1e-4)
    if not np.max(np.abs(found - wanted)) <= within * np.max(np.abs(wanted)):
        raise SystemExit(f"the logits of {name} are not those of the same weights: {np.max(np.abs(found - wanted))}")


def _made_up(config: dict[str, Any], sparsity: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return random weights by name, with zeros where nothing is stored."""
    from seft_ref.model.config import ModelConfig

    model = ModelConfig.from_json(config)
    targets = {matrix.name for matrix in model.targets()}
    dense: dict[str, Any] = {}
    for name, shape in model.parameters().items():
        dense[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        if "norm" in name:
            dense[name] = np.ones(shape, dtype=np.float32)
        elif name in targets:
            dense[name][rng.random(shape, dtype=np.float32) < sparsity] = 0
    return dense


def _ours(config: dict[str, Any], dense: dict[str, Any], threads: int) -> Methods:
    import ml_dtypes

    from seft_ref.kernels import cpu
    from seft_ref.model.config import ModelConfig
    from seft_ref.model.weights import assemble
    from seft_ref.quantise.grid import nearest, parse_grid, weights_of
    from seft_ref.text.generate import nothing_read, read
    from seft_ref.topology.csr import from_flat

    model = ModelConfig.from_json(config)
    head = dense["model.embed_tokens.weight"]

    def of(packing: Callable[[Any, Any], Any]) -> tuple[Callable[[], Reader], int]:
        packed = {"lm_head.weight": cpu.pack_dense(head)}
        for matrix in model.targets():
            weight = dense[matrix.name]
            packed[matrix.name] = packing(from_flat(matrix.shape, np.flatnonzero(weight)), weight)
            # the first product with one token builds the masks that later ones use
            cpu.matmul(np.zeros((1, matrix.shape[1]), dtype=np.float32), packed[matrix.name])
        weights = assemble(model, dense, packed)

        def begin() -> Reader:
            context = nothing_read(model)

            def following(some: list[int]) -> Any:
                nonlocal context
                logits, context = read(np.array([some]), context, weights, model, cpu)
                return logits[0]

            return following

        return begin, sum(one.nbytes for one in packed.values())

    def stored(weight: Any) -> Any:
        return weight.reshape(-1)[np.flatnonzero(weight)]

    def rounded(form: str, topology: Any, weight: Any) -> Any:
        return cpu.compact(topology, nearest(weight, topology, parse_grid(form)))

    def widened(form: str, topology: Any, weight: Any) -> Any:
        return cpu.pack(topology, weights_of(nearest(weight, topology, parse_grid(form)), np.dtype(np.float32)))

    yield "ours float32", *of(lambda t, w: cpu.pack(t, stored(w)))
    yield "ours bfloat16", *of(lambda t, w: cpu.compact(t, stored(w).astype(ml_dtypes.bfloat16)))
    for form in CODES:
        yield f"ours {form}", *of(partial(rounded, form))
        yield f"{SAME_WEIGHTS}ours {form}", *of(partial(widened, form))


def _torch(config: dict[str, Any], dense: dict[str, Any], threads: int) -> Methods:
    import torch
    import transformers

    torch.set_num_threads(threads)
    for dtype in (torch.float32, torch.bfloat16):
        names = {name: value for name, value in config.items() if name != "model_type"}
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**names))
        state = {name: torch.from_numpy(array).to(dtype) for name, array in dense.items()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model = model.to_empty(device="cpu").to(dtype)
        model.load_state_dict(state)
        model.tie_weights()
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        model.eval()
        name_of_cache = next(n for n in signature(model.forward).parameters if n in ("cache", "past_key_values"))

        def begin(model: Any = model, name_of_cache: str = name_of_cache) -> Reader:
            cache = transformers.DynamicCache()

            def following(some: list[int]) -> Any:
                with torch.inference_mode():
                    out = model(torch.tensor([some]), **{name_of_cache: cache}, use_cache=True, logits_to_keep=1)
                return out.logits[0, -1].float().numpy()

            return following

        n_bytes = sum(array.size * dtype.itemsize for array in dense.values())
        yield f"torch {str(dtype).removeprefix('torch.')}", begin, n_bytes


def _llama(config: dict[str, Any], dense: dict[str, Any], threads: int) -> Methods:
    import llama_cpp

    sizes = {"n_ctx": PROMPT + MOST, "n_threads": threads, "n_threads_batch": threads}
    for form in LLAMA:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{form}.gguf"
            _write_gguf(file, config, dense, form)
            n_bytes = file.stat().st_size
            model = llama_cpp.Llama(str(file), **sizes, use_mmap=False, verbose=False)

        def begin(model: Any = model) -> Reader:
            model.reset()

            def following(some: list[int]) -> Any:
                model.eval(some)
                return np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), (config["vocab_size"],)).copy()

            return following

        yield f"llama.cpp {form}", begin, n_bytes


def _write_gguf(file: Path, config: dict[str, Any], dense: dict[str, Any], form: str) -> None:
    """Write the weights as a GGUF file for llama.cpp, without a vocabulary."""
    import gguf

    kind = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, array in dense.items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        if heads is not None:
            # llama.cpp rotates adjacent pairs of a head, and not its two halves
            n = config[heads]
            array = array.reshape(n, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        there = names.get_name(name, try_suffixes=(".weight",))
        if array.ndim == 1:
            writer.add_tensor(there, array)
        else:
            writer.add_tensor(there, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _versions() -> dict[str, str]:
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if find_spec("llama_cpp"):
        import llama_cpp

        versions["llama-cpp-python"] = llama_cpp.__version__
        versions["llama.cpp"] = llama_cpp.llama_print_system_info().decode()
    return versions
