"""A fuzzer for readers of checkpoint files: three readers get each input and must agree (FMT-096, FMT-097).

The files of the kit itself are in `vectors`. The readers are in `formats`, `oracle` and `seft_ports/c`.
Start with `loop.py`, then `judge.py`.
"""
