"""What only Python has: runs as objects, tables and arrays in memory as sources, and how results look in a notebook.

`import foldstream` takes its classes and functions from here and from `api/`, which carries out every request.
Nothing here decides how data are converted or models trained, and the command line does not use it.
"""
