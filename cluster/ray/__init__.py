"""Ray clusters: the cluster of a job, a local one for experiments, the token that every server requires.

Other folders import `job_cluster.py` and `auth.py`. Private parts of Ray are used via `training/ray/internals.py`.
Nothing here knows Dask, runs or folds.
"""
