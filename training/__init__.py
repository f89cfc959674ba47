"""Training: splits, the stream of batches, models, the training loop, and Ray Train around it.

`open_stream.py` and `model/export.py` are public, and `cluster/` starts runs through `ray/`.
Nothing here may import the pipeline: data arrive as a committed dataset.
"""
