"""The compiled CSV reader: dialect, pieces of whole rows, and the numbers and texts in them.

Others import a piece's reader, `open_csv` and the row types (`row_batch.py`), which Parquet shares.
Nothing here knows schemas, shards, Parquet or Dask.
"""
