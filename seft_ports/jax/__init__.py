"""SEFT as pure JAX functions of arrays with static shapes; they work under `jax.jit` and without.

Positions are flat (row · in + column), int64 and increasing. An array of positions has a capacity: its tail is filled
with NOWHERE, so the number of weights can change while shapes do not. Ids of SPEC.md stand above the lines that fulfil
them.

Start with `event.py`; `example.py` trains with it.
"""
