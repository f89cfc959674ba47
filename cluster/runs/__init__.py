"""Runs: who trains them here, and the coordinator on a cluster, with a pure schedule and its journal, the fold mode,
grids of settings, and the status of a run.

`run.py` prepares and trains a run, and `status.py` reads the progress of one wherever it runs; both are for all folders
above. Nothing here may print, report or merge predictions.
"""
