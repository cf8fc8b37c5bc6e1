"""Programs under judgement."""
