"""What SEFT is compared with: a frozen weight and a few trained factors beside it, each a forward/backward pair.

    base = frozen(topology, values, kernels)
    adapter = spp_initial((out, in_), rank=8, alpha=16.0, seed=1, matrix=0, like=values)
    y, cache = spp_forward(x, base, adapter, kernels)
    dx, da, dc = spp_backward(dy, cache)
    values = spp_merge(base, adapter)

SPP and SparsePEFT form nothing of size (out, in): their change of the weight, and its gradient, are values on the
base's topology. What a kernel set holds of these is its own affair: `cpu` packs densely from 55 % of the positions on,
`reference` always multiplies densely.

The sparse update itself is in `update`. Start with `lora.py`.
"""
