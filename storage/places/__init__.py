"""Locations of files: one class `Place`, with an implementation for local disks and one for object stores.

Other modules call `locate` to turn a path or a URL into a `Place`, and use that class's methods and properties only.
Nothing here knows what the files contain, apart from JSON, and no other module may ask which implementation it has.
"""
