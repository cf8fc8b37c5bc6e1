"""Speed and memory, each beside a named peer: python -m benchmarks kernels|step|growth|memory|generate|large|...

app       the table of commands, and the products of kernel sets
rounds    what all share: a clean environment, the machine's description, rounds in which every method runs
page      tables and pictures from what --json wrote
check_gpu everything that a GPU has to show, in one go

Every other file is one benchmark. Nothing here is installed: measure from a checkout.

What is right is tested, not timed: see `tests`. Start with `rounds.py`.
"""
