"""Folds, the order of samples, the stream, models, the loop, checkpoints and prediction.

Everything here runs with torch alone; Ray Train stands in `ray_train.py` only.
"""
