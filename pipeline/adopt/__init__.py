"""Datasets whose features stay in the files of others: Zarr, HDF5, NumPy, Arrow and Parquet. `find.py` explores a
source, `spec.py` decides the dataset, and `adopt.py` writes everything but the features, or with --copy these too.
Other folders import `adopt.py`, `options.py` and `speed.py`. How foreign chunks are read while training belongs to
`storage/foreign/`.
"""
