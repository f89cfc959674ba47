"""Parts of predictions to merged predictions: the merge with its proof of coverage, scores, a table.

`merge.py` and `oof_table.py` are the entries.
Nothing here trains or predicts: parts come through storage.
"""
