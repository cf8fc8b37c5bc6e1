"""How a support becomes sections, one file an encoding; `formats.encoding` is their table."""
