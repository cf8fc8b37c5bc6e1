"""Programs that use the packages as another project would. Start with `peft_repair.py`.

peft_repair      repairs a pruned model with PEFT and the Trainer
peft_repair.ipynb  the same in a notebook, step by step
peft_instruct    trains a pruned model on prompts and completions, with TRL
push_update      a trainer with an adapter pushes sparse deltas to a process that generates
rl_sync          a trainer publishes its weights after every step, and another process follows

Nothing in this folder is installed, so run it from a checkout.
"""
