"""Modules of the file library that mutants edit, and that need packages of the extra `torch`."""

from formats.dialects import gguf_file, torch_file, torch_tensors

__all__ = ["gguf_file", "torch_file", "torch_tensors"]
