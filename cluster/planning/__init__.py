"""Estimates of what a job needs, before it runs: convert a sample, try the model, and extrapolate by arithmetic.

`estimate_job` in `job.py` is the entry point for the command line; `estimate.py` and `text.py` are pure.
Nothing here may write to the job's own paths, or start Dask or Ray.
"""
