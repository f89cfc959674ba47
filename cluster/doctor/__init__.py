"""Diagnostics: whether this machine is ready, its GPU is used, and the nodes of a cluster are consistent.

The commands in `terminal/` import it.
Nothing here may change or fix anything; a finding only names its remedy.
"""
