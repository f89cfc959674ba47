"""Arrays that stay where others wrote them: in Zarr, HDF5, NumPy, Arrow or Parquet files, of which a dataset only holds
where each chunk is. The readers of blocks may use `open_foreign`, and `pipeline/adopt` makes the descriptions. How a
format is explored does not belong here: a description says all that reading takes, without the format's own library.
"""
