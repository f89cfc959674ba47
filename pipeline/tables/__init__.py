"""CSV and Parquet files to a dataset: sources, findings, the plan, filled shards, the shuffle.

`convert.py` is the entry; `spec.py` decides, purely, and the rest does as it says.
Nothing here knows images, or who runs the tasks.
"""
