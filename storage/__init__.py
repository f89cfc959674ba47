"""The dataset on disk: format, blocks, manifest, verified reads, atomic commits; and the basics that all folders need.

All other folders import from here: errors, places, tasks, random numbers.
Nothing here knows Dask, Ray or torch.
"""
