"""Ensembles over runs: weights by the out-of-fold predictions of their members, and the weighted predictions.

Other folders import `find_weights` and `blend_predictions`. Nothing here may know models or runs: their merged
predictions arrive as arrays in storage.
"""
