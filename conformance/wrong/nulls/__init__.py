"""Programs that must never be called conformant: they do nothing, guess, or break the protocol.

    python -m conformance.wrong.nulls MODE

answers     wrong answers in right lines
known       right answers to all frozen cases, or to all small inputs
lines       wrong lines, or none
expected    what the kit must say of each

Wrong engines are in `mutants`. Start with `expected.py`.
"""
