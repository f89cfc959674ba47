"""The user's own code: which files belong to it, how they travel, and how they are imported.

Anything may name code, such as a model or a tokenizer, by `path/to/file.py:name`, and import it with `loading.py`. What
the code is for does not belong here.
"""
