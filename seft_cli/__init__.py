"""The command line program `seft`.

app          the table of commands; each is loaded when it is named
commands/    one file per command: the order of its steps, nothing that another program would want to call
log/         writes, reads and draws the log of a run (TRN-010)
report       what `seft finetune` says at its end
console      terminals that are safe for foreign text, errors in one line, progress bars
input, output   check paths before any work starts; output files appear complete or not at all
device, memory, launcher   the device of a run, whether its memory suffices, and the processes that mpirun started

Nothing here computes what SPEC.md defines: that lives in `seft_ref` and `formats`. Start reading in
`commands/finetune.py`.
"""

from seft_cli import threads as threads  # first, because NumPy's libraries read it when they load
