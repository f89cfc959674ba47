"""The list of all images: folders, patterns and archives are walked, and what is in them is written to a list file.

The other modules of `images/` and `sample.py` import all of it. Nothing here decodes an image or
knows the request's labels.
"""
