"""Counts, means, variances and ranges of columns or channels, which merge without reading a row again.

A conversion computes them for each shard, a fold plan for each fold. Nothing here may read or write.
"""
