"""Everything around a network: input normalization, loss, optimizer, metrics, weights, predictions, export.

The engine and `cluster/` may import from here.
Nothing here may know about epochs, ranks or checkpoints.
"""
