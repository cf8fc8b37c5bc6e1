"""Whole runs, one call each: prune, finetune, evaluate, generate, from a folder or from a loaded model.

`loops` puts the two kinds of training, a sparse update and adapters, behind one interface.
The steps of a run are in `train`, the pruners in `prune`, perplexity and tokens in `text`; nothing is computed here.
Start with `finetune.py`.
"""
