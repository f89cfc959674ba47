"""What a job will need, before it runs: a sample is converted, the model is tried, and the rest is arithmetic.

`job.py` is the entry; `estimate.py` is pure.
Nothing here writes into the job's own places.
"""
