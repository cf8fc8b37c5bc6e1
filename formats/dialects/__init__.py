"""Converters from and to the files of others, one module a foreign format."""
