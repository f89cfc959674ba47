"""Masks, the targets of a segmentation: which file belongs to which image, which classes they have, and their pixels.

The conversion of images imports `find_masks`, and the process that decodes images reads and draws masks by `pixels.py`.
Nothing here decodes the images themselves, or writes a dataset.
"""
