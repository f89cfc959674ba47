"""Models: the built-in networks, and the user's own model code, loaded and checked before any worker starts.

Others may import the functions of `factory.py`, of `own_code.py` and `loading.py` for code that travels with a run, and
those of `user_code.py` to report errors of user code.
Nothing here may train a model.
"""
