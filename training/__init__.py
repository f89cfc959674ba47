"""Training: splits, the stream of batches, models, the training loop, and its integration with Ray Train.

`open_stream.py` and `model/export.py` are public, and `cluster/` starts runs through `ray/`.
Nothing here may import the pipeline: the data arrives as a committed dataset.
"""
