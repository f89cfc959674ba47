"""Ensembles over several runs: which runs fit together, the weights and predictions of an ensemble, its report.

The command line and `cluster/python/` import `make_ensemble`. Opening an ensemble to predict with it is the duty of
`cluster/prediction/members.py`. Nothing here trains.
"""
