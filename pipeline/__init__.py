"""CSV and images to dataset, and parts of predictions to merged predictions.

A pure plan first, then tasks that carry it out, then Dask, in `dask_executor.py` alone.
"""
