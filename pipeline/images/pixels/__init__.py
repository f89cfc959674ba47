"""The pixels of one image: what is drawn where, resized how, and with how many bits.

`decode.py` imports all of it. Nothing here opens a file by its path or knows of a list.
"""
