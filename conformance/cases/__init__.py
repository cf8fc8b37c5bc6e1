"""What is asked: clauses, operations and their types, profiles, frozen cases, and how an output is compared.

Answers are worked out in `oracle`, ports are asked in `judge`. Start with `ops.py`, then `case.py`.
"""
