"""Training: splits, the stream of batches, models, the loop, and Ray Train around it.

`open_stream.py` and `model/export.py` are public; the cluster starts runs by `ray/`.
Nothing here knows the pipeline: data come as a dataset.
"""
