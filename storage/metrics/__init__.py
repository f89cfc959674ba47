"""Metrics of predictions, made of sums over rows that merge: for an epoch of a fold as for all rows out-of-fold.

`scoring.py` says which metrics a task has, and makes them of the sums; the other modules collect these. The training
and the merge of predictions import from here. Nothing here may read or write, or know a model.
"""
