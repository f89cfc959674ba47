"""Runs: local training, the coordinator on a cluster with a pure schedule and its journal, the fold mode, grids of
settings, and the status of a run.

`run.py` prepares and trains a run, and `status.py` reads the progress of a run wherever it is training; all folders
above may import both. Nothing here may print, report or merge predictions.
"""
