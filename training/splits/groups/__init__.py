"""Splits by groups, whose rows stay together: buckets of groups, and their distribution among folds. The other modules
of splits import both. What the groups of a row are belongs to `columns.py`, and no other kind of split belongs here.
"""
