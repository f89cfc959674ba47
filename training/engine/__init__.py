"""The training loop: folds, epochs and steps on one rank, checkpoints, the exchange between ranks.

`FoldTrainer` in `loop.py` is the entry point; it runs in any process, with or without Ray.
Nothing here knows Ray.
"""
