"""Ray clusters: that of a job, a local one to try things on, the token that every server requires, ending processes.

Others import `job_cluster.py` and `auth.py`. What is private in Ray is used through `training/ray/internals.py`.
Nothing here knows Dask, runs or folds.
"""
