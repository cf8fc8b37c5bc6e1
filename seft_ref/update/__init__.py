"""The update rules: pure functions from arrays to a change of topology; start at evolve, the whole event."""
