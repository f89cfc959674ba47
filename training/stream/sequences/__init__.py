"""Sequences in batches: rows of similar length come together, and padding is trimmed to the longest row of a batch.

The streams import the functions of both modules. How sequences are stored does not belong here.
"""
