"""Ray Train: a driver for each group of folds, its workers, and the one file that knows Ray's internals.

`group.py` and `driver.py` load neither Ray Train nor torch: the command that starts drivers imports them.
`internals.py` is for `cluster/` too. Nothing here trains: workers call the engine.
"""
