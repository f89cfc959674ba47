"""Datasets whose features are out-of-fold predictions: their schema, their shards, their conversion.

Other folders import `convert_stack` and `StackRequest`. Nothing here may load a model: predictions are arrays in
storage, and which runs they belong to is decided elsewhere.
"""
