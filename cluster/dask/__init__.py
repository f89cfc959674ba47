"""Dask in this process, at an address or as Ray actors, and the executor that runs a job here or on one of these.

Other folders import `executor.py`, and `on_ray.py` if Ray accounts for the workers.
Nothing here knows what the tasks do.
"""
