"""Fuzzers of readers: mutated inputs, and checks that readers agree and do not break down (FMT-096, FMT-097).

Checkpoints of our own format go to two or three readers, which must agree. Files of other programs go to the reader of
their format, and its answer is compared with a plain definition. Start with `loop.py` and `judge.py`, or with
`foreign.py` and `versions.py`.

The files of the kit itself are in `vectors`. The readers are in `formats`, `oracle` and `seft_ports/c`.
"""
