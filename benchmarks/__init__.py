"""Benchmarks of speed and memory against named peers: python -m benchmarks kernels|step|growth|memory|generate|...

app       the table of commands, and the benchmark of kernel sets
rounds    shared parts: a clean environment, a description of the machine, rounds in which every method runs
page      tables and pictures from the files of --json
check_gpu all checks and benchmarks of a GPU, in one go

Most other files are one benchmark each. Nothing in this folder is installed, so run it from a checkout.

Tests of correctness are in `tests`. Start with `rounds.py`.
"""
