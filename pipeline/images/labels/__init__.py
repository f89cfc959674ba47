"""The labels of images: from their folders, their names, the files beside them in a shard, or a table that lists them.

`spec.py` and `columns.py` import `find.py` and `encode.py`. Nothing here reads an image.
"""
