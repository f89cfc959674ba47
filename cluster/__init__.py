"""Where jobs run: clusters, the coordinator of folds, and the functions and pages for users.

The command line and `import foldstream` use `api/`; the rooms import each other one way (`tests/unit/test_house.py`).
What a job does is implemented in `pipeline/` and `training/`.
"""
