"""Kernels."""

from typing import Any

Kernels = Any
Packed = Any
