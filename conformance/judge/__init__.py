"""Asks a port, compares what comes back, and says what may be claimed.

How a port is spoken to is in `protocol`, what a run prints in `report`. Start with `harness.py`, then `judgement.py`.
"""
