"""`seft verify` from a checkout: judge our engine, or a port, clause by clause against SPEC.md.

python tools/verify.py [--only GLOB] [--report DIR]
python tools/verify.py --port "./my_port" [--expect seft-expect.toml]
python tools/verify.py list --cases
"""

from _checkout import seft

if __name__ == "__main__":
    seft("verify")
