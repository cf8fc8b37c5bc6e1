"""Runs cases on a port, compares its answers, and decides what the port may claim.

The messages to and from a port are in `protocol`, reports of a run in `report`. Start with `harness.py`, then
`judgement.py`.
"""
