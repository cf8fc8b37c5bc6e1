"""Whole runs, one call each: prune, finetune, evaluate, generate, from a folder or from a loaded model.

The steps of a run are in `train`, the pruners in `prune`, perplexity and tokens in `text`; nothing is computed here.
Start with `finetune.py`.
"""
