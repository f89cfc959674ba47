"""From blocks to shuffled batches: the order of samples, schedules of reads, and the threads that prefetch.

`single.py` serves one model, `fused.py` several models in one pass, `rows.py` yields rows in the dataset's order.
Nothing here knows what is computed from a batch.
"""
