"""Diagnostics: whether this machine is ready, its GPU is used, and the nodes of a cluster match each other.

The commands in `terminal/` import it.
Nothing here may change or fix what it finds; a finding only names its remedy.
"""
