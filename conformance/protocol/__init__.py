"""Messages between the kit and a program under judgement (chapter 16): lines of JSON on its standard input and output.

port      what `judge` calls: a name, and one method that answers operations
values    values as JSON holds them, and back
serve     the loop of a port written in Python
child     a port as a child process: start, ask, wait, restart, end
files     the folder in which large arrays are left
faults    what a port did instead of answering

What comes back is compared in `judge`. Start with `port.py`, then `serve.py`.
"""
