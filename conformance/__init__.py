"""The kit that judges a program by SPEC.md: clauses, frozen cases, oracles, comparison.

SPEC.md -> clauses -> registry      oracle -> gen -> vectors -> harness <-> port
"""
