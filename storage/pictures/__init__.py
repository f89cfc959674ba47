"""Pictures: one image file, as bytes, becomes one sample, the same wherever it is decoded.

Conversion decodes files with `decode.py`, and so do readers of blocks in which image files are kept. Nothing here opens
a file by its path, or knows of a list, a block or a dataset.
"""
