"""The merge of the folds' predictions: it proves that every row is covered, scores the result and exports a table.

Other folders import `merge_predictions` and `oof_table.py`. Nothing here may train or predict: predictions arrive
through storage.
"""
