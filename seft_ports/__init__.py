"""Ports of SEFT that are useful on their own; each is judged by `conformance`.

The reference is in `seft_ref`, which none of them imports. Start with the README of one of them.
"""
