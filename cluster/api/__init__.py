"""The functions that users call: convert, split, train, predict, verify, and a job file that does all of these.

The command line and `import foldstream` share it; planning and submission read job files here.
Nothing here prints.
"""
