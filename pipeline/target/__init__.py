"""The target of a conversion: its lock, the tasks that write shards, their receipts, the statistics, and the commit.

`tables/` and `images/` import all of it, and `cluster/` uses it to check whether a dataset already exists. Nothing
here may read a source or depend on its format.
"""
