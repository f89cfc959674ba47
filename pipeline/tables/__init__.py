"""The conversion of CSV and Parquet files: find and scan the sources, specify the dataset, write and shuffle shards.

Other folders import `convert.py`, `find_sources` and `ConvertRequest`; inside, `spec.py` holds the decisions as pure
functions and the other modules carry them out. Nothing here may deal with images or depend on the executor.
"""
