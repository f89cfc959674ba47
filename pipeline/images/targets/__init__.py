"""Masks and images as targets: which file belongs to which image, the classes of masks, and their pixels.

The conversion of images imports `find_targets`, and the process that decodes images draws targets by `pixels.py`.
Nothing here decodes the images themselves, or writes a dataset.
"""
