"""From blocks to mixed batches: the order of samples, schedules of reads, the threads that read ahead.

`single.py` serves one model, `fused.py` several models from one pass, `rows.py` gives rows in the dataset's order.
Nothing here knows what is computed from a batch.
"""
