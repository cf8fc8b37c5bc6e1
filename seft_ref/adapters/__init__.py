"""What SEFT is compared with: a frozen weight and a few trained factors beside it, each a forward/backward pair.

    base = frozen(topology, values, kernels)
    adapter = spp_initial((out, in_), rank=8, alpha=16.0, seed=1, matrix=0, like=values)
    y, cache = spp_forward(x, base, adapter, kernels)
    dx, da, dc = spp_backward(dy, cache)
    values = spp_merge(base, adapter)

SPP and SparsePEFT hold nothing of size (out, in): their change of the weight lives on the base's topology.
"""
