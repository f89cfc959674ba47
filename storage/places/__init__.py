"""Locations of files: one class `Place`, with an implementation for local disks and one for object stores.

Other modules call `locate` to turn a path or a URL into a `Place`, and use only that class's methods and properties.
Nothing here knows what the files contain, apart from JSON, and other modules must not depend on the implementation.
"""
