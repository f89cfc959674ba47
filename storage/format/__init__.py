"""The format of a dataset on disk, as plain values: layout, arrays, schema, statistics, manifest.

All other folders import from here. Nothing here reads or writes a dataset: that is `storage/blocks/` and
`storage/dataset.py`.
"""
