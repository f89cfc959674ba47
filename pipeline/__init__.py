"""The conversion of CSV, Parquet and image files into datasets, and the merge of predictions.

Other folders import `tables/convert.py`, `images/convert.py`, `predictions/merge.py` and the request types; each entry
point takes an executor that runs its tasks. Only `dask_executor.py` may import Dask, and nothing here may import
Ray, torch or the training code.
"""
