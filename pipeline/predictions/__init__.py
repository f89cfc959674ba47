"""The merge of the folds' predictions, which proves that every row is covered and scores the result, and tables of
predictions as files.

Other folders import `merge_predictions`, `oof_tables`, and the columns and files of tables. Nothing here may train or
predict: predictions arrive through storage, or as arrays.
"""
