"""SEFT as pure JAX functions of arrays with static shapes; they work under `jax.jit` and without.

Positions are flat (row · in + column), int64 and increasing. An array of positions has a capacity: its tail is filled
with NOWHERE, so that weights may come and go while shapes stay. SPEC.md is what is fulfilled; ids of its clauses
stand above the lines that do it.

Start with `event.py`; `example.py` trains with it.
"""
