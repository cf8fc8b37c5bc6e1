"""How a program under judgement is spoken to (chapter 16): lines of JSON on its standard input and output.

values    values as JSON holds them, and back
serve     the loop of a port written in Python
child     a port as a child process: start, ask, wait, restart
"""
