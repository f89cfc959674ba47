"""The conversion of image files: list and label them, decode them in a monitored process, resize and preview them.

Other folders import `convert.py`, `ImageRequest` and `preview.py`; inside, `spec.py` decides which image becomes
which row. Nothing here may deal with tables or depend on the executor.
"""
