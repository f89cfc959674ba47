"""The dataset on disk: format, blocks, manifest, verified reads, atomic commits.

Knows zarr and numpy. Knows nothing of Dask, Ray or torch.
"""
