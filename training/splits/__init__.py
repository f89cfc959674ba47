"""How rows are assigned to folds: the kinds of splits, the fold code of every row, and the plan that stores them.

Others may import `Split` and `choose_split`, and `make_plan`, which runs one task per shard.
Nothing here may know about models or batches.
"""
