"""What is fitted on the training rows of each model: column statistics, and the plan of the model's inputs.

Everything in `training/` above may import from here, and so may `cluster/`.
Nothing here may know about models, torch or the order of rows.
"""
