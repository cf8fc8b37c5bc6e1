"""Clauses, operations and their types, profiles, frozen cases, and the comparison of an output with the expected one.

`oracle` computes the expected answers, and `judge` asks the ports. Start with `ops.py`, then `case.py`.
"""
