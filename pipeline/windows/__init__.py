"""Datasets whose samples are windows over the rows of time series. `series.py` finds the series and their order,
`spec.py` decides the samples, `write.py` writes a shard of them, and `convert.py` does it all. Other folders import
`convert.py` and `spec.py`. How windows are read belongs to `storage/blocks/windows.py`.
"""
