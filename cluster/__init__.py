"""Where a job runs: the local Dask and Ray clusters, the coordinator of folds, and the jobs that users call."""
