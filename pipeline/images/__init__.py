"""Image files to a dataset: lists, labels, decoding in a watched process, resizing; and a sheet of samples.

`convert.py` is the entry; `spec.py` decides which image becomes which row.
Nothing here knows tables, or who runs the tasks.
"""
