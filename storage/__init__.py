"""The dataset on disk: format, blocks, manifest, verified reads, atomic commits; and what all folders need.

Everything imports from here: errors, places, tasks, random numbers.
Nothing here knows Dask, Ray or torch.
"""
