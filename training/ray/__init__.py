"""Ray Train: in this process with helper processes, or with a driver for each group of folds and its workers; and the
only file that depends on Ray's internals.

`group.py`, `helper.py` and `driver.py` import neither Ray Train nor torch, because the command imports them first.
`cluster/` may also use `internals.py`. Nothing here trains: workers call the engine.
"""
