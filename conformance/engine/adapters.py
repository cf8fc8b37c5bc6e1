"""The operations `adapter.*` as calls into `seft_ref.adapters`."""

from functools import partial
from typing import Any

from conformance.engine.values import Values
from seft_ref.adapters.frozen import Frozen, frozen
from seft_ref.adapters.lora import Lora, lora_backward, lora_forward, lora_initial, lora_merge, lora_star
from seft_ref.adapters.sparsepeft import sparsepeft_backward, sparsepeft_forward, sparsepeft_merge
from seft_ref.adapters.spp import Spp, spp_backward, spp_forward, spp_initial, spp_merge
from seft_ref.arrays.library import array_namespace
from seft_ref.prune.wanda import wanda_mask
from seft_ref.topology.csr import flat, from_flat


def _base(a: Values) -> Frozen:
    return frozen(from_flat((a["out"], a["in"]), a["positions"]), a["values"], a["kernels"], a.get("bias"))


def _lora(a: Values) -> Values:
    base, lora = _base(a), Lora(a["a"], a["b"], a["alpha"])
    y, cache = lora_forward(a["x"], base, lora, a["kernels"])
    dx, da, db = lora_backward(a["dy"], cache)
    merged = array_namespace(y).reshape(lora_merge(base, lora), (-1,))
    return {"y": y, "dx": dx, "da": da, "db": db, "merged": merged, "parameters": lora.n_parameters}


def _spp(a: Values) -> Values:
    base, spp = _base(a), Spp(a["a"], a["c"], a["alpha"], a["rank"])
    y, cache = spp_forward(a["x"], base, spp, a["kernels"])
    dx, da, dc = spp_backward(a["dy"], cache)
    merged = spp_merge(base, spp)
    return {"y": y, "dx": dx, "da": da, "dc": dc, "merged": merged, "parameters": spp.n_parameters}


def _sparsepeft(a: Values) -> Values:
    base, lora = _base(a), Lora(a["a"], a["b"], a["alpha"])
    y, cache = sparsepeft_forward(a["x"], base, lora, a["kernels"])
    dx, da, db = sparsepeft_backward(a["dy"], cache)
    merged = sparsepeft_merge(base, lora, a["kernels"])
    return {"y": y, "dx": dx, "da": da, "db": db, "merged": merged, "parameters": lora.n_parameters}


def _star(a: Values) -> Values:
    pattern = None if a["pattern"] is None else (int(a["pattern"][0]), int(a["pattern"][1]))
    keep = partial(wanda_mask, input_square_sum=a["square_sums"], sparsity=a["sparsity"], pattern=pattern)
    topology, values = lora_star(_base(a), Lora(a["a"], a["b"], a["alpha"]), keep, patterned=pattern is not None)
    return {"kept": flat(topology), "values": values}


def _initial(a: Values) -> Values:
    shape, more = (a["out"], a["in"]), {name: a[name] for name in ("seed", "matrix", "like")}
    if a["kind"] == "spp":
        spp = spp_initial(shape, rank=8, alpha=16.0, bands=a["rows"], **more)
        return {"a": spp.a, "other": spp.c, "parameters": spp.n_parameters}
    lora = lora_initial(shape, rank=a["rows"], alpha=16.0, **more)
    return {"a": lora.a, "other": lora.b, "parameters": lora.n_parameters}


OPERATIONS: dict[str, Any] = {
    "adapter.lora": _lora,
    "adapter.spp": _spp,
    "adapter.sparsepeft": _sparsepeft,
    "adapter.lora_star": _star,
    "adapter.initial": _initial,
}
