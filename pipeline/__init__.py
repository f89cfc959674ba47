"""CSV, Parquet and images to datasets, and parts of predictions to merged predictions.

`tables/convert.py`, `images/convert.py` and `predictions/merge.py` are the entries, and take an executor for tasks.
Dask stands in `dask_executor.py` alone; nothing here knows the training.
"""
