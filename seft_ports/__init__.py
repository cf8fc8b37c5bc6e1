"""Ports of SEFT that are useful on their own; `conformance` tests each of them.

The reference is in `seft_ref`, which no port imports. Start with the README of one of them.
"""
