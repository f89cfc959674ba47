"""Ray clusters: that of a job, a local one for trying, the token that every server asks for, processes to end.

Others import `job_cluster.py` and `auth.py`.
Nothing here knows Dask, runs or folds.
"""
