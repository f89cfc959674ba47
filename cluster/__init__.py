"""Where jobs run: clusters, the coordinator of folds, and the calls and pages of a user.

The command line and `import foldstream` use `api/`; the rooms import each other one way (`tests/unit/test_house.py`).
What a job does stands in the pipeline and in the training.
"""
