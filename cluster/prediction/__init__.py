"""The prediction of new rows: its plan, its work folder, the shards that are predicted, in this process or by workers,
and the parts that they write.

`api/` imports all of it but `rate.py`. Nothing here may open or convert the source: it arrives as a dataset.
"""
