"""SEFT as pure JAX functions of arrays with static shapes; they work under `jax.jit` and without.

Positions are flat (row · in + column), int64 and increasing. An array of positions has a capacity: its tail is filled
with NOWHERE, so the number of weights can change while shapes do not. Ids of SPEC.md stand above the lines that fulfil
them.

event, select, schedule, counter   an event and its parts
topology, sparse, optimizer        positions that move, products, AdamW on slots
exact, wide, errors                sums and products that are rounded once, 64-bit numbers, refusals
port                               the adapter for the conformance kit

There is no model here, no file and no command. Start with `event.py`; `example.py` trains with it.
"""
