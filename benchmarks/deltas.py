"""Ship a model after every training step: as deltas of this format, as whole files, and as zstd of the difference.

The model has random weights and the shapes of SmolLM2-135M, in bfloat16. A step changes the given share of the weights
of every tensor in their last four bits, because steps of reinforcement learning are small. A step is shipped in two
halves. The sender has the weights before and after the step in two folders. The receiver has those before the step,
and writes those after it. With a sparsity, the matrices of blocks are sparse, the folders are of this format, and
steps change only stored weights. Memory is measured in separate processes, which send and receive the last delta again.

CPU seconds are those of the process, and those of them that the system spent in the kernel are told apart, because on
some machines a page of new memory costs the system more than the work that fills it.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.memory import largest_resident
from benchmarks.rounds import JsonFile, machine, restart_in_clean_environment
from seft_cli.output import write_json

SHAPES = {"vocab": 49152, "hidden": 576, "inner": 1536, "values": 192, "layers": 30}
"""The sizes of SmolLM2-135M, whose head is its embedding."""
LEVEL = 1
"""The level of zstd for the exclusive or, which is mostly zeros; higher levels take longer and save a tenth."""
WAYS = ("delta", "delta, compressed", "zstd of xor", "dense file")
"""The ways to ship a step; `dense file`, written and read by safetensors, is the only one without earlier weights."""
HALVES = ("send", "receive")
"""The two halves of a step."""


def shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name."""
    hidden, inner, values = sizes["hidden"], sizes["inner"], sizes["values"]
    block = {
        **{
            f"self_attn.{x}_proj": (out, hidden)
            for x, out in zip("qkvo", (hidden, values, values, hidden), strict=True)
        },
        **{f"mlp.{x}_proj": (inner, hidden) for x in ("gate", "up")},
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    layers = {f"model.layers.{n}.{name}.weight": s for n in range(sizes["layers"]) for name, s in block.items()}
    return {"model.embed_tokens.weight": (sizes["vocab"], hidden), **layers, "model.norm.weight": (hidden,)}


class Shipped:
    """A model that changes step by step: its bits, and its weights before and after the last step as two folders.

    They are Hugging Face folders, or folders of this format if the model is sparse.
    """

    def __init__(self, root: Path, sizes: dict[str, int], share: float, sparsity: float = 0.0) -> None:
        import numpy as np

        self.root, self.share, self.random = root, share, np.random.default_rng(20)
        draw = self.random.standard_normal
        self.bits = {
            name: (draw(shape, dtype=np.float32) * np.float32(0.02)).view(np.uint32).__rshift__(16).astype(np.uint16)
            for name, shape in shapes(sizes).items()
        }
        self.stored: dict[str, Any] = {}
        """name of a sparse matrix -> flat positions of its stored weights"""
        for name, bits in self.bits.items() if sparsity else ():
            if ".layers." in name and bits.ndim == 2:
                # about one of 16 million draws is zero, and a zero is not stored
                keeps = (self.random.random(bits.size) >= sparsity) & (bits.reshape(-1) << 1 != 0)
                bits.reshape(-1)[~keeps] = 0
                self.stored[name] = np.flatnonzero(keeps)
        self._write("after")

    def step(self) -> None:
        """Change a share of the weights of each tensor, at least one, in their last four bits."""
        shutil.rmtree(self.root / "before", ignore_errors=True)
        (self.root / "after").rename(self.root / "before")
        for name, bits in self.bits.items():
            among = self.stored.get(name, range(bits.size))
            bits, count = bits.copy(), max(1, round(self.share * len(among)))
            changed = self.random.choice(among, count, replace=False)
            bits.reshape(-1)[changed] ^= self.random.integers(1, 16, count, dtype=bits.dtype)
            self.bits[name] = bits
        self._write("after")

    def arrays(self) -> dict[str, Any]:
        """Return the weights after the step as arrays of bfloat16."""
        import ml_dtypes

        return {name: bits.view(ml_dtypes.bfloat16) for name, bits in self.bits.items()}

    def _write(self, name: str) -> None:
        from safetensors.numpy import save_file

        import formats

        if self.stored:
            tensors = {
                name: formats.from_dense(array) if name in self.stored else formats.Dense(array)
                for name, array in self.arrays().items()
            }
            formats.write(self.root / name, formats.Checkpoint("model", tensors))
            return
        (self.root / name).mkdir()
        (self.root / name / "config.json").write_text("{}")
        save_file(self.arrays(), self.root / name / "model.safetensors", {"format": "pt"})


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """Open a folder of weights as a checkpoint."""
    import formats
    from formats import delta
    from formats.dialects.hf import open_hf

    if (folder / "config.json").exists():
        with open_hf(folder) as reader:
            yield reader.checkpoint()
    else:
        with formats.open(folder) as own:
            yield delta.verified(own)


def send_delta(root: Path, out: Path, compress: str | None = None) -> None:
    """Write the delta between the folders `before` and `after` of a root, in this format."""
    import formats
    from formats import delta

    with opened(root / "before") as before, opened(root / "after") as after:
        formats.write(out, delta.diff(before, after), compress=compress)


def receive_deltas(start: Path, steps: list[Path], made: Path) -> None:
    """Apply deltas to a folder in order, comparing every digest, and write the result as another folder."""
    import formats
    from formats import delta
    from formats.dialects.hf import checkpoint_to_hf

    write = checkpoint_to_hf if (start / "config.json").exists() else formats.write
    with opened(start) as before:
        readers = [formats.open(step) for step in steps]
        write(made, delta.apply(before, [delta.verified(reader) for reader in readers]))


def send_xor(model: Shipped, out: Path) -> None:
    """Write the exclusive or of the two files of weights, as one zstd frame."""
    import numpy as np
    import zstandard

    before, after = (np.fromfile(model.root / n / "model.safetensors", np.uint8) for n in ("before", "after"))
    out.write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress((before ^ after).data))


def receive_xor(start: Path, frame: Path, made: Path) -> None:
    """Write the file of weights after a step, from the one before it and the frame of `send_xor`."""
    import numpy as np
    import zstandard

    before = np.fromfile(start / "model.safetensors", np.uint8)
    made.mkdir()
    difference = np.frombuffer(zstandard.ZstdDecompressor().decompress(frame.read_bytes()), np.uint8)
    (before ^ difference).tofile(made / "model.safetensors")


def receive_dense(whole: Path, made: Path) -> None:
    """Read a file of weights and write it."""
    from safetensors.numpy import load_file, save_file

    made.mkdir()
    save_file(load_file(whole), made / "model.safetensors", {"format": "pt"})


@contextmanager
def clock(told: dict[str, float], half: str) -> Iterator[None]:
    """Record the CPU seconds, those of them in the kernel, and the seconds of the with-block."""
    wall, cpu, kernel = time.perf_counter(), time.process_time(), _kernel_seconds()
    yield
    told[f"{half} kernel"] = _kernel_seconds() - kernel
    told[f"{half} cpu"], told[half] = time.process_time() - cpu, time.perf_counter() - wall


def _kernel_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def shipped_by(model: Shipped, way: str, n: int) -> tuple[Path, dict[str, float]]:
    """Ship step n by one way, check that the received weights are those sent, and return the file, times and bytes."""
    from safetensors.numpy import save_file

    sent, made = model.root / f"{way} {n}", model.root / "made"
    told: dict[str, float] = {}
    start = model.root / "before"
    send: Callable[[], object]
    receive: Callable[[], object]
    if way.startswith("delta"):
        compress = "zstd" if way.endswith("compressed") else None
        send, receive = lambda: send_delta(model.root, sent, compress), lambda: receive_deltas(start, [sent], made)
    elif way == "zstd of xor":
        send, receive = lambda: send_xor(model, sent), lambda: receive_xor(start, sent, made)
    else:
        arrays = model.arrays()
        send, receive = lambda: save_file(arrays, sent, {"format": "pt"}), lambda: receive_dense(sent, made)
    with clock(told, "send"):
        send()
    with clock(told, "receive"):
        receive()
    _compare(made, model, way)
    shutil.rmtree(made)
    files = sent.rglob("*") if sent.is_dir() else [sent]
    told["bytes"] = sum(file.stat().st_size for file in files)
    return sent, told


def _compare(made: Path, model: Shipped, way: str) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    import formats

    want = model.arrays()
    if model.stored:
        got = {name: formats.to_dense(tensor) for name, tensor in formats.read(made).tensors.items()}
    else:
        got = load_file(made / "model.safetensors")
    if got.keys() != want.keys() or not all(
        np.array_equal(got[name].view(np.uint16), want[name].view(np.uint16)) for name in want
    ):
        raise AssertionError(f"{way} does not lead to the weights after the step")


def peaks(root: Path) -> dict[str, dict[str, int]]:
    """Return for each half of a step, `send` and `receive`, the most memory of a process that does nothing else.

    `allocated` are the bytes of all arrays and objects at once, without mapped files. `resident` is the largest
    resident size above that of a process that only imports; it counts the pages of mapped files, which the system
    takes back when it needs them. On a system without /proc there is no `resident`.
    """

    def measured(what: str, how: str) -> int:
        # a new folder for every process, because each writes what it makes
        with tempfile.TemporaryDirectory(dir=root) as made:
            return int(subprocess.check_output([sys.executable, "-m", __name__, what, how, str(root), made], text=True))

    told = {half: {"allocated": measured(half, "allocated")} for half in HALVES}
    if Path("/proc/self/status").exists():
        imported = measured("import", "resident")
        for half, memory in told.items():
            memory["resident"] = measured(half, "resident") - imported
    return told


def _alone(what: str, how: str, root: Path, made: Path) -> int:
    """Run one half of a step in this process, which does nothing else, and return its most memory in bytes."""
    with opened(root / "before"):  # imports what both halves need
        from formats import loops  # noqa: F401
    if how == "allocated":
        tracemalloc.start()
    if what == "send":
        send_delta(root, made / "sent")
    elif what == "receive":
        receive_deltas(root / "before", [root / "last"], made / "received")
    # not ru_maxrss, because in a new process it starts at the resident size of the parent
    return tracemalloc.get_traced_memory()[1] if how == "allocated" else largest_resident()


def deltas(
    steps: Annotated[int, typer.Option(min=1, help="Steps that are shipped.")] = 20,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of weights that a step changes.")] = 0.003,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model; 30 make 135 million weights.")] = 30,
    sparsity: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Share of the weights of blocks that is absent; deltas alone are shipped."),
    ] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Ship the steps of a 135M model, as deltas and by other ways; each step is shipped by every way in turn."""
    restart_in_clean_environment(1)
    told: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        model = Shipped(Path(folder), SHAPES | {"layers": layers}, share, sparsity)
        # the size of a sparse model is that of its folder, because those bytes are read and hashed
        folder_bytes = sum(file.stat().st_size for file in (model.root / "after").iterdir())
        total = folder_bytes if sparsity else sum(bits.nbytes for bits in model.bits.values())
        ways = WAYS[:2] if sparsity else WAYS
        chain = []
        # the first step is not counted, because it loads the libraries
        for n in range(steps + 1):
            model.step()
            if n == 1:
                shutil.copytree(model.root / "before", model.root / "first")
            for way in ways:
                sent, times = shipped_by(model, way, n)
                if n:
                    told[way].append(times)
                if n and way == WAYS[0]:
                    chain.append(sent)
                else:
                    shutil.rmtree(sent) if sent.is_dir() else sent.unlink()
        at_once: dict[str, float] = {}
        with clock(at_once, "receive"):
            receive_deltas(model.root / "first", chain, model.root / "made")
        _compare(model.root / "made", model, "the chain")
        chain[-1].rename(model.root / "last")
        memory = peaks(model.root)
    largest = max(bits.nbytes for bits in model.bits.values())
    print(f"{total:,} bytes of weights, {share:.2%} changed in each of {steps} steps")
    print("CPU seconds a GB to send and to receive: median (range), of which in the kernel: median")
    for way, rows in told.items():
        size = statistics.median(row["bytes"] for row in rows)
        print(f"{way:18} {size:>12,.0f} bytes  {'  '.join(_seconds(rows, half, total) for half in HALVES)}")
    print(f"all {steps} deltas at once: {at_once['receive cpu'] / total * 1e9:.2f}")
    for half, sizes in memory.items():
        listed = (f"{what} {size:,} bytes, {size / largest:.2f} of the largest tensor" for what, size in sizes.items())
        print(f"{half}: {'; '.join(listed)}")
    about: dict[str, Any] = {"bytes": total, "steps": steps, "share": share, "sparsity": sparsity}
    about |= {"memory": memory, "largest tensor": largest}
    content = {"machine": machine(1), **about, "ways": dict(told)}
    write_json(json_file, content | {"at once": at_once})
    print(json.dumps(content["machine"]))


def _seconds(rows: list[dict[str, float]], half: str, total: int) -> str:
    cpu = sorted(row[f"{half} cpu"] / total * 1e9 for row in rows)
    kernel = statistics.median(row[f"{half} kernel"] / total * 1e9 for row in rows)
    return f"{statistics.median(cpu):.2f} ({cpu[0]:.2f}..{cpu[-1]:.2f}), {kernel:.2f}"


if __name__ == "__main__":
    print(_alone(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
