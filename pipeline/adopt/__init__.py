"""Datasets whose features stay in the files of others: Zarr, HDF5, NumPy, Arrow and Parquet. `sources/` explores these,
`spec.py` decides the dataset, and `adopt.py` writes everything but the features, or with --copy these too. Other
folders import `adopt.py`, `spec.py`, `columns.py`, `options.py` and `speed.py`. How foreign chunks are read in training
belongs to `storage/foreign/`.
"""
