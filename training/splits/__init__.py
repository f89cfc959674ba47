"""The assignment of rows to folds: the kinds of splits, the fold code of every row, and the plan that stores them.

Other folders may import `Split`, `choose_split` and `make_plan`, which runs one task per shard.
Nothing here may know about models or batches.
"""
