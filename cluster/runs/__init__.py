"""Runs: the coordinator with its pure schedule and its journal, the fold mode, grids, and a run's status.

`run.py` trains the folds of a run; `status.py` reads how far one is, wherever it runs.
Nothing here reports, prints or merges.
"""
