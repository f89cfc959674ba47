"""Blocks of rows: how they are encoded in shards, where each one is stored, and how they are read and written.

`shards` is the format of a file, `index` that of the file which knows all blocks.
"""
