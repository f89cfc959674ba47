"""Counts, means, variances and ranges of columns or channels, which can be merged without reading the rows again.

A conversion computes them for each shard, a fold plan for each fold. Nothing here may read or write.
"""
