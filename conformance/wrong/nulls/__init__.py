"""Null ports, which must never be called conformant: they do nothing, guess, or break the protocol.

    python -m conformance.wrong.nulls MODE

answers     wrong answers in valid lines
known       right answers to all frozen cases, or to all small inputs
lines       invalid lines, or none
files       answers in files that the protocol forbids
expected    outcomes and verdicts that each port must get

Mutants of the engine are in `mutants`. Start with `expected.py`.
"""
