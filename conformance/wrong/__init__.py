"""Mutants and broken ports that the kit must refuse, and the table of the cases that refuse each mutant.

    mutants/     our engine with one operation replaced by a plausible mistake
    nulls/       ports that do nothing, guess, or break the protocol
    versions.py  the engine with one line of its source changed

The failures of a real port are in `expect` and `report`. Start with `mutants/base.py`, then `kills.py`.
"""
