"""`seft generate` from a checkout: python tools/generate.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("generate")
