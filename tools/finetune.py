"""`seft finetune` from a checkout: python tools/finetune.py --help"""

from _checkout import seft

seft("finetune")
