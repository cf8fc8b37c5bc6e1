"""The command `seft`: what a person types.

app          the table of commands; each is loaded when it is named
commands/    one command a file; the sequence of a command, and nothing that another program would want to call
log/         a run's log (TRN-010): read, written, drawn
console      terminals for foreign text, errors in one line, progress
input, output   places are looked at before any work is done; files appear whole or not at all
device, memory, launcher   where a run computes, whether it fits there, and what processes mpirun started

Nothing here computes what SPEC.md defines: that lives in `seft_ref` and `formats`. Start reading in
`commands/finetune.py`.
"""

from seft_cli import threads as threads  # before all that loads NumPy
