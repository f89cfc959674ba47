"""Everything around a network: input normalization, loss, optimizer, metrics, files of weights and states,
predictions, export.

The engine and `cluster/` may import from here.
Nothing here may know about epochs or ranks, or when checkpoints are written.
"""
