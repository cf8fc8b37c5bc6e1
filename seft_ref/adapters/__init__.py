"""The adapters that SEFT is compared with: a frozen weight, and a few trained factors beside it (chapter 11).

    base = frozen(topology, values, kernels)
    adapter = spp_initial((out, in_), rank=8, alpha=16.0, seed=1, matrix=0, like=values)
    y, cache = spp_forward(x, base, adapter, kernels)
    dx, da, dc = spp_backward(dy, cache)
    values = spp_merge(base, adapter)

SPP and SparsePEFT form nothing of size (out, in): their change of the weight, and its gradient, are values on the
base's topology. A kernel set may still form these densely: `cpu` does from 55 % of the positions on, `reference` in
every product.

`methods.py` gives all adapters one interface for training; the training loop is in `train/factors.py`.

The sparse update itself is in `update`. Start with `lora.py`.
"""
