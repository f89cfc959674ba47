"""How rows become folds: kinds of splits, the codes of every row, and the plan that keeps them.

Others import `Split` and `choose_split`, and `make_plan`, which runs one task a shard.
Nothing here knows models or batches.
"""
