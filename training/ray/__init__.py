"""The one place of the training that knows Ray Train: a driver for each group of folds, and its workers.

`group.py` and `driver.py` load neither Ray Train nor torch: the command that starts drivers imports them.
Nothing here trains: workers call the engine.
"""
