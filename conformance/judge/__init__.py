"""Asks a port, compares what comes back, and says what may be claimed.

Messages to and from a port are in `protocol`, reports of a run in `report`. Start with `harness.py`, then
`judgement.py`.
"""
