"""What surrounds a network: stored rows to its input, loss, optimizer, metrics, weights, predictions, export.

The engine and the jobs import from here.
Nothing here knows epochs, ranks or checkpoints.
"""
