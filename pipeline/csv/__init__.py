"""The compiled CSV reader: it detects the dialect, cuts files into pieces of whole rows, and parses the fields.

Other folders import `open_csv`, the reader of a piece (`rows.py`) and the row types (`row_batch.py`), which the
Parquet reader shares. Schemas, shards, Parquet and Dask must not appear here.
"""
