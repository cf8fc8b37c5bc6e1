"""Expected results, worked out from SPEC.md alone: plain loops in binary64, apart from any engine."""
