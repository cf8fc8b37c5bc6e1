"""Pruners: from a weight and a score to the support that stays. Pure: arrays in, a boolean mask out."""
