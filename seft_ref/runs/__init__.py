"""Whole runs, one call each: prune, finetune, evaluate, evaluate_tasks, generate, from a folder or a loaded model.

`quantise` takes the folder of a pruned model.
`tasks_log` stores the results of an evaluation on tasks, so that it can be resumed; `lm_eval` lets lm-eval drive a
model.
`loops` puts the two kinds of training, a sparse update and adapters, behind one interface.
The steps of a run are in `train`, the pruners in `prune`, perplexity and tokens in `text`; nothing is computed here.
Start with `finetune.py`.
"""
