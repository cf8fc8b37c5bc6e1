"""`seft finetune` from a checkout: python tools/finetune.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("finetune")
