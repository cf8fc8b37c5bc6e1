"""The operations that a port may offer: the inputs of each, and the class by which each output is compared.

Comparison classes (chapter 14)
    exact     equal bits: indices, counts, moved values
    value     equal numbers, with +0 equal to −0: sums of integers that no rounding touches
    gauge     within τ(K) · u · Σ|a||b|, with K and the gauge in the case
    binary64  as gauge, with u = 2⁻⁵³ in every dtype of the run: scalars that SPEC.md defines in binary64
    relative  largest difference over largest value, at most 1e-9 in float64 and 1e-4 in float32
    state     a training state, read by the rules of chapter 12 and compared tensor by tensor (PRT-020)
    packed    a compressed file, compared by what its sections expand to (FMT-140 to FMT-142)
    stock     a Hugging Face folder, compared by tensors, companions and index (FMT-124)
"""

from dataclasses import dataclass
from typing import Literal

Class = Literal["exact", "value", "gauge", "binary64", "relative", "state", "packed", "stock"]
Kind = Literal["scalar", "rule", "layer", "whole"]

__all__ = ["AREAS", "OPS", "Class", "Kind", "Op"]

AREAS = (
    *("select", "update", "event", "kernels", "layers", "model", "train", "prune", "quantise", "adapters"),
    *("generate", "files"),
)
"""Files of `gen`, `oracle`, `engine`, `properties` and `wrong.mutants` have names AREA.py or AREA_TOPIC.py."""


@dataclass(frozen=True, slots=True)
class Op:
    """The inputs and outputs of an operation.

    Attributes:
        kind: scalar (numbers only), rule, layer (arrays of any library), whole (models and runs).
        inputs: names; a trailing ``?`` marks an input that may be absent.
        outputs: comparison classes by name.
    """

    kind: Kind
    inputs: tuple[str, ...]
    outputs: dict[str, Class]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all inputs, including those that may be absent."""
        return tuple(name.rstrip("?") for name in self.inputs)


def _op(kind: Kind, inputs: str, /, **outputs: Class) -> Op:
    return Op(kind, tuple(inputs.split()), outputs)


def _exact(outputs: str) -> dict[str, Class]:
    return dict.fromkeys(outputs.split(), "exact")


_MATRIX = "out in base base_values delta delta_values"
_FROZEN = "out in positions values bias?"
_CODED = "out in grid positions codes scales zeros?"
_STEP: dict[str, Class] = {
    "loss": "relative",
    **_exact("base base_values delta age"),
    **dict.fromkeys(("delta_values", "m", "v"), "relative"),
}
_RUN: dict[str, Class] = {
    **dict.fromkeys(("losses", "weights"), "relative"),
    **_exact("budgets delta_budgets slots bases support"),
}
_PAIR: dict[str, Class] = {
    "y": "relative",
    "dx": "relative",
    "da": "relative",
    "merged": "relative",
    "parameters": "exact",
}

OPS: dict[str, Op] = {
    # chapter 7
    "rng.draws": _op("scalar", "words numbers", draws="exact"),
    "select.largest": _op("rule", "scores ids k", chosen="exact"),
    "select.smallest": _op("rule", "scores ids k", chosen="exact"),
    # chapter 2
    "topology.positions": _op("rule", "out in indptr indices", positions="exact"),
    "topology.of": _op("rule", "out in positions pattern?", indptr="exact", indices="exact"),
    "change.source": _op("rule", "out in old new", source="exact"),
    "change.realign": _op("rule", "out in old new values fill", values="exact"),
    # chapter 8
    "count.budget": _op("scalar", "density out in stored", n="exact"),
    "count.drop": _op("scalar", "drop_fraction step steps slots", n="exact"),
    "schedule.fraction": _op("scalar", "drop_fraction step steps", value="binary64"),
    "schedule.events": _op("scalar", "steps evolve_every", at="exact"),
    "schedule.learning_rate": _op("scalar", "kind lr step steps warmup", value="binary64"),
    "schedule.spiel": _op("scalar", "period accumulate steps", at="exact", sums="exact"),
    "delta.effective": _op("rule", _MATRIX, support="exact", weights="exact"),
    "delta.initial_random": _op("rule", "out in base n seed matrix", positions="exact"),
    "update.drop": _op("rule", "out in delta delta_values n", dropped="exact"),
    "update.grow": _op("rule", "out in base delta dropped gradient n scope", grown="exact"),
    "update.adapt": _op("rule", f"{_MATRIX} gradient budget", pruned="exact"),
    "update.evolve": _op(
        "rule",
        f"{_MATRIX} m v age gradient n_drop delta_budget budget scope adapts",
        base="exact",
        base_values="exact",
        delta="exact",
        delta_values="exact",
        m="exact",
        v="exact",
        age="exact",
        support="exact",
        weights="exact",
    ),
    # a part is a dict of out, in, matrix, base, base_values, delta, delta_values, age?, m?, v?, u?, origin?, gradient,
    # absolute, square, inputs, row_moments, column_moments, candidates?, lost, budget, delta_budget, steps, optimizer,
    # first; an array is None if optimizer and rule do not keep it
    # budget has one entry, or one per row (scope row) or per group (scope group); delta_budget has one, or one per row
    # rule has every choice of chapter 8 and beta1, beta2, momentum
    "update.event": _op(
        "rule",
        "parts rule fraction seed step pattern?",
        base="exact",
        base_values="exact",
        delta="exact",
        delta_values="exact",
        age="exact",
        m="exact",
        v="exact",
        u="exact",
        origin="exact",
        dropped="exact",
        grown="exact",
        cancelled="exact",
        pruned="exact",
        records="exact",
    ),
    "score.drop": _op("rule", "criterion positions values origin? square? weight? seed? matrix? step?", scores="exact"),
    "score.grow": _op(
        "rule",
        "criterion out in positions gradient? absolute? square? inputs? row_moments? column_moments?"
        " seed? matrix? step?",
        scores="exact",
    ),
    "score.adapt": _op(
        "rule",
        "criterion out in positions weight gradient? absolute? square? tokens? inputs? seed? matrix? step? use?",
        scores="exact",
    ),
    # largest is 0 or 1; inside, outside and gap have length 1, or 0 if there is no boundary
    "select.pools": _op(
        "rule", "scores ids pools counts largest", chosen="exact", inside="exact", outside="exact", gap="exact"
    ),
    "count.budgets": _op("scalar", "by amount shapes stored", n="exact"),
    "schedule.drops": _op(
        "scalar",
        "drop_schedule drop_fraction step steps evolve_until first_event first",
        value="binary64",
    ),
    "schedule.all_events": _op(
        "scalar", "events steps evolve_every evolve_until gradient_window", at="exact", sums="exact"
    ),
    "delta.initial": _op("rule", "out in base base_values n by scope seed matrix gradient?", positions="exact"),
    # choices of preset.rule are texts key=value, with numbers formatted by %g
    "preset.rule": _op("scalar", "name", choices="exact"),
    "rule.check": _op("scalar", "choices", ok="exact"),
    # chapter 9
    "optimizer.step": _op(
        "rule",
        "kind out in positions values m? v? age? u? rows? columns? gradient lr beta1 beta2 eps weight_decay momentum "
        "slot_warmup?",
        values="gauge",
        m="gauge",
        v="gauge",
        u="gauge",
        age="exact",
        rows="gauge",
        columns="gauge",
    ),
    "adamw.step": _op(
        "rule",
        "values m v age gradient lr beta1? beta2? eps? weight_decay?",
        values="gauge",
        m="gauge",
        v="gauge",
        age="exact",
    ),
    "adamw.clip": _op("scalar", "norm max_norm", factor="binary64"),
    # chapter 3; `held` says how values are stored: float16, bfloat16 or a grid of codes (KRN-015, KRN-018); the slots
    # `live` keep the dtype of computation (KRN-016). `odd` maps an input to the dtype that it is converted to first:
    # "other" (of float32 and float64) or "int64"
    "kernel.sparse": _op(
        "layer", "out in positions values x dy odd? held? live?", y="gauge", dx="gauge", dvalues="gauge", shape="exact"
    ),
    "kernel.dense": _op("layer", "weight x dy odd?", y="gauge", dx="gauge", shape="exact"),
    "kernel.store": _op("layer", "out in positions values slots new x held? live?", y="value"),
    "kernel.store_dense": _op("layer", "out in weight positions slots new x", y="value"),
    "kernel.exceeding": _op("layer", "values least", indices="exact"),
    # chapter 4
    "layer.embedding": _op("layer", "weight tokens dy", y="exact", dweight="gauge"),
    "layer.rmsnorm": _op("layer", "x weight eps dy", y="relative", dx="relative", dweight="relative"),
    "layer.linear": _op("layer", "x weight bias? dy", y="gauge", dx="gauge", dweight="gauge", dbias="gauge"),
    "layer.rope": _op("layer", "x rope dy", y="gauge", dx="gauge"),
    "layer.attention": _op(
        "layer", "q k v mask? window? dy", y="relative", dq="relative", dk="relative", dv="relative"
    ),
    "layer.swiglu": _op("layer", "gate up dy", y="relative", dgate="relative", dup="relative"),
    "layer.cross_entropy": _op("layer", "logits targets count dloss", loss="relative", dlogits="relative"),
    "rope.frequencies": _op("scalar", "head_dim length rope", frequencies="binary64"),
    # chapters 5 and 6
    "config.describe": _op("scalar", "config", targets="exact", windows="exact", head_dim="exact", kv_heads="exact"),
    "config.biases": _op("scalar", "config", projections="exact"),
    "model.step": _op(
        "whole",
        "config tensors tokens labels mask? rows_at_once recompute?",
        loss="relative",
        logits="relative",
        gradients="relative",
    ),
    "gradient.whole": _op("layer", "dy x", gradient="gauge"),
    "gradient.norm": _op("rule", "out in gradient", norm="relative"),
    "gradient.at": _op("layer", "out in dy x positions", values="gauge"),
    "gradient.candidates": _op("rule", "out in dy x steps base delta n scope", candidates="exact", values="exact"),
    # dy and x are lists over steps of lists over micro-batches
    "window.evidence": _op("layer", "out in dy x", gradient="value", absolute="value", square="value", inputs="value"),
    # support has the positions at which `tokens` is computed
    "window.tokens": _op("layer", "out in dy x support", tokens="value"),
    "window.candidates": _op("rule", "out in gradients n", candidates="exact", gradient="value", square="value"),
    # chapter 12; attributes, scales and delta are canonical JSON text, state is a digest. In a tensor `bits` has the
    # values as bytes; row_pointers and columns are None if the support is full
    "file.read": _op(
        "scalar",
        "raw",
        kind="exact",
        tensors="exact",
        attributes="exact",
        tied="exact",
        scales="exact",
        delta="exact",
        state="exact",
    ),
    # base and deltas are files; the keys of deltas number them in the order in which they are applied
    "delta.apply": _op("scalar", "base deltas", tensors="exact", tied="exact", scales="exact", state="exact"),
    "file.write": _op("scalar", "kind tensors attributes tied scales delta encoding", raw="exact"),
    # `file.write` with compression of every section that it makes smaller
    "file.compress": _op("scalar", "kind tensors attributes tied scales delta encoding", raw="packed"),
    # `folder.read` takes all files of a folder and answers with its companions as `files`; `folder.write` the reverse
    "folder.read": _op(
        "scalar",
        "files",
        kind="exact",
        tensors="exact",
        attributes="exact",
        tied="exact",
        scales="exact",
        delta="exact",
        state="exact",
        files="exact",
    ),
    "folder.write": _op("scalar", "kind tensors attributes tied scales delta encoding part_bytes files", files="exact"),
    # training, evaluation and pruning, chapters 10 and 11
    "text.training": _op("scalar", "tokens length seed step rows", starts="exact"),
    "text.calibration": _op("scalar", "tokens length seed n", starts="exact"),
    "text.evaluation": _op("scalar", "tokens length windows", starts="exact"),
    "evaluate.perplexity": _op("whole", "config tensors text length windows", perplexity="relative", targets="exact"),
    "prune.magnitude": _op("rule", "weights sparsity", kept="exact"),
    "prune.wanda": _op("rule", "weights square_sums sparsity", kept="exact"),
    "prune.pattern": _op("rule", "scores n m", kept="exact"),
    # scores and kept have one array per matrix
    "prune.scope": _op("rule", "scores sparsity scope", kept="exact"),
    "prune.random": _op("rule", "out in sparsity seed matrix", kept="exact"),
    # scores is a list over blocks of lists over their matrices
    "prune.owl": _op("rule", "scores sparsity outlier spread", sparsities="relative"),
    # inputs has the input rows of the matrix, one per token
    "prune.sparsegpt": _op("rule", "weights inputs sparsity n? m? damping? block?", kept="exact", weights="relative"),
    "prune.model": _op("whole", "config tensors tokens sparsity", kept="exact"),
    "prune.model_sparsegpt": _op("whole", "config tensors tokens sparsity", kept="exact", weights="relative"),
    # weights is dense, codes are those of the positions. With inputs, one row per token, the method is GPTQ
    "quantise.matrix": _op(
        "rule", "grid weights positions inputs? damping? block?", codes="exact", scales="exact", zeros="exact"
    ),
    "quantise.weights": _op("rule", f"{_CODED}", values="exact"),
    "quantise.merge": _op(
        "rule",
        f"{_CODED} support values mode",
        positions="exact",
        codes="exact",
        update="exact",
        update_values="exact",
        changed="exact",
        vanished="exact",
        saturated="exact",
    ),
    # merged is flat: over all positions for lora, over the stored positions for the others
    "adapter.lora": _op("layer", f"{_FROZEN} a b alpha x dy", **_PAIR, db="relative"),
    "adapter.spp": _op("layer", f"{_FROZEN} a c alpha rank x dy", **_PAIR, dc="relative"),
    "adapter.sparsepeft": _op("layer", f"{_FROZEN} a b alpha x dy", **_PAIR, db="relative"),
    # pattern is (N, M)
    "adapter.lora_star": _op(
        "layer",
        "out in positions values a b alpha square_sums sparsity pattern?",
        kept="exact",
        values="value",
    ),
    # chapter 17; parts lists how many tokens each read takes, logits (B, parts, V) are those after each part
    "generate.read": _op("whole", "config tensors tokens parts", logits="relative"),
    "generate.pick": _op("rule", "logits temperature top_k? top_p? seed numbers", picked="exact"),
    "generate.text": _op(
        "whole", "config tensors prompt stops max_tokens? temperature top_k? top_p? seed", tokens="exact"
    ),
    # each branch (B, T) is read as a continuation of the context `tokens`; logits (B, V) are those after each branch
    "generate.fork": _op("whole", "config tensors tokens branches", logits="relative"),
    # rows is the number of rows of A: the rank, or the number of bands for spp; like has the wanted dtype
    "adapter.initial": _op("layer", "kind out in rows seed matrix like", a="exact", other="exact", parameters="exact"),
    # One step from a state: parts has one entry per target, tensors has the rest. Of a target in tensors only the shape
    # counts. A part is a dict of base, base_values, delta, delta_values, m, v, age, budget and delta_budget. If an
    # event that looks at a gradient window follows this step, a part has these too:
    #   window_steps   the earlier steps of the window
    #   window         Σ g over them
    #   window_tokens  Σ dy² x² over them at the positions of base and delta, if the rule asks for it
    "train.step": _op(
        "whole",
        "config tensors parts text settings step",
        **_STEP,
    ),
    "train.run": _op(
        "whole",
        "config tensors stored text settings",
        **_RUN,
    ),
    # held is float16, bfloat16 or a grid; then codes, scales and zeros are dicts by target, and `tensors` has the
    # weights of the codes. With exact layers multiply by codes at the slots too
    "train.held": _op("whole", "config tensors stored text settings held codes? scales? zeros? exact?", **_RUN),
    # training states: origin has the digests `model` and `text`; stop is the step after which the state is written
    # of the targets in `tensors` of `state.resume` only the shapes count, as in `train.step`
    # slots, bases and starts have an entry per later event; starts has the count `start` of TRN-009 of each target
    "state.write": _op("whole", "config tensors stored text settings origin stop", raw="state"),
    "state.resume": _op(
        "whole",
        "config tensors text settings origin raw",
        losses="relative",
        slots="exact",
        bases="exact",
        starts="exact",
        support="exact",
        weights="relative",
    ),
    # a step on explicit batches, each a dict of tokens, labels and mask?, all (B, T); labels of -100 are not counted
    "train.batches": _op(
        "whole",
        "config tensors parts batches settings step",
        **_STEP,
    ),
    # dtypes, warnings and ranks of a run; dtypes have the names of FMT-006, but `asked` and the output `dtype` NumPy's
    "checkpoint.dtype": _op("scalar", "stored asked?", dtype="exact"),
    "checkpoint.final": _op("rule", "values dtype", bits="exact"),
    "file.name": _op("scalar", "name", ok="exact"),
    "file.expand": _op("scalar", "raw name limit?", bits="exact"),
    # config, generation and record are the texts of companion files
    "generate.stops": _op("scalar", "config generation?", stops="exact"),
    "prune.record": _op("scalar", "record", pattern="exact"),
    "run.warnings": _op("scalar", "losses events support budget stored?", steps="exact", names="exact"),
    "ranks.rows": _op("scalar", "rows ranks", first="exact"),
    # inputs are those of `update.event`; outputs have one number per matrix; gradient_norm is None without a whole ḡ
    "event.ratios": _op(
        "rule",
        "parts rule fraction seed step pattern?",
        churn="relative",
        overlap="relative",
        gradient_norm="relative",
    ),
    # foreign folders: large maps names of files to their size in zero bytes, cast is a dtype of FMT-126
    "convert.from_hf": _op(
        "scalar",
        "files large? encoding zeros cast?",
        **_exact("kind tensors attributes tied scales companions left_out quantised"),
    ),
    # a folder whose format is detected; a separate operation, because a port may copy codes without reading them
    "convert.codes": _op(
        "scalar",
        "files expand_quantised encoding",
        tensors="exact",
        attributes="exact",
        companions="exact",
        config="exact",
    ),
    # such a folder, whose codes are kept (chapter 19). The other three also take a quantised model in a folder of
    # chapter 12, and expand its codes, or write them for compressed-tensors or GPTQ.
    # scheme has num_bits, group_size, symmetric, type and strategy, zeros how many stored weights the writer says are 0
    "convert.keep_codes": _op("scalar", "files", **_exact("tensors attributes scales companions config")),
    "convert.expand_codes": _op("scalar", "files", tensors="exact", attributes="exact", scales="exact"),
    "convert.pack_codes": _op("scalar", "files", tensors="exact", scheme="exact", zeros="exact"),
    "convert.gptq_codes": _op("scalar", "files", tensors="exact", scheme="exact", zeros="exact", rounded="exact"),
    # files are a pruned model in a folder of chapter 12, whose targets are rounded to nearest
    "quantise.model": _op("scalar", "files grid", tensors="exact", attributes="exact", scales="exact"),
    # raw has the blocks of a matrix of a GGUF file, row by row
    "convert.gguf_blocks": _op("scalar", "type out in raw", **_exact("positions codes scales zeros")),
    # files are a checkpoint folder of chapter 12; part_bytes is the most that a shard may have
    "convert.to_hf": _op("scalar", "files part_bytes cast?", files="stock"),
    # files are an adapter folder or a patch, tensors those of its base; how is `add` or `replace`
    "convert.adapter": _op("scalar", "kind files tensors", how="exact", tensors="exact", left_out="exact"),
}
"""Every operation by name."""
