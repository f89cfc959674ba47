"""The conversion of tables (CSV, Parquet, Arrow, JSON lines): sources, findings, the spec of the dataset, its shards.

Other folders import `convert.py`, `find_sources` and `ConvertRequest`; inside, `spec/` holds the decisions as pure
functions and the other modules carry them out. Nothing here may deal with images or depend on the executor.
"""
