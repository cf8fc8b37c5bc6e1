"""Ports of SEFT that are useful on their own; each is judged by `conformance`."""
