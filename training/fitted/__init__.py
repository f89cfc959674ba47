"""What is fitted on the training rows of each model: statistics of the columns, and a model's inputs planned by them.

Everything in `training/` above may import from here, and so may `cluster/`.
Nothing here may know of models, torch or the order of rows.
"""
