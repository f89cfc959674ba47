"""The specification of a dataset of tables, decided before anything is written: all functions are pure.

`convert.py` and what it runs import `ConvertRequest` and the functions of `conversion.py`, which calls the others.
Nothing here reads or writes.
"""
