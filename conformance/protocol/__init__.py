"""Messages between the kit and a port under test (chapter 16): lines of JSON on the port's standard input and output.

port      the interface that `judge` calls: a name, and one method that answers operations
values    encodes values as JSON and decodes them
serve     the loop of a port written in Python
child     a port as a child process: start, ask, wait, restart, end
hello     who a port is, and what it offers
files     the folder through which large arrays are passed
faults    exceptions for a port that fails to answer

`judge` compares the answers. Start with `port.py`, then `serve.py`.
"""
