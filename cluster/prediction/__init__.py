"""The prediction of new rows: its plan, the shards that are predicted, in this process or by workers, and the parts
that they write.

`api/` and `python/` import `plan.py`, `shards.py`, `parts.py` and `workers.py`. Nothing here may open or convert the
source: it arrives as a dataset.
"""
