"""Run one null port: ``python -m conformance.wrong.nulls MODE``."""

import sys

from conformance.protocol.port import Port
from conformance.protocol.serve import serve
from conformance.wrong.nulls import answers, known, lines


class _Printing(answers.Right):
    """A right port that prints, as libraries do; `serve` moves standard output aside."""

    name = "prints"

    def call(self, op: str, inputs: answers.Values, dtype: str) -> answers.Values:
        print("a library says hello")
        return super().call(op, inputs, dtype)


def main() -> int:
    """Run the null port that the command line names; return the exit status."""
    modes = sorted({*answers.MODES, *known.MODES, *lines.MODES})
    if len(sys.argv) != 2 or sys.argv[1] not in modes:
        print(f"usage: python -m conformance.wrong.nulls MODE, one of {', '.join(modes)}", file=sys.stderr)
        return 2
    mode = sys.argv[1]
    if mode in known.MODES:
        serve(known.MODES[mode]())
    elif mode in answers.MODES or mode == "prints":
        port: Port = _Printing() if mode == "prints" else answers.port_of(mode)
        serve(port)
    else:
        lines.serve_lines(mode)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
