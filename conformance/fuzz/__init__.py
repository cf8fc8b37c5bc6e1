"""Inputs made to break readers of checkpoint files, and three readers that judge each other (FMT-096, FMT-097)."""
