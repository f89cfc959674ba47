"""Ray Train: in this process and others beside it, or a driver for each group of folds and its workers; and the one
file that knows Ray's internals.

`group.py`, `helper.py` and `driver.py` load neither Ray Train nor torch: the command imports them before anything else.
`internals.py` is for `cluster/` too. Nothing here trains: workers call the engine.
"""
