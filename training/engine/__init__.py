"""The training loop: folds, epochs and steps on one rank, checkpoints, the exchange between ranks.

`FoldTrainer` is the entry; it runs in any process, with Ray or without.
Nothing here knows Ray.
"""
