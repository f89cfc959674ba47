"""Dask clusters: on this machine, at an address, or as actors inside Ray; and the executor of a job on one of them.

Others import `executor.py`, and `on_ray.py` where Ray accounts for the workers.
Nothing here knows what the tasks do.
"""
