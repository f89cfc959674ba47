"""Examination: is this machine ready, is its GPU used, do the nodes of a cluster fit together?

The commands import it.
Nothing here mends what it finds.
"""
