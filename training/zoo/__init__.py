"""Models: the built-in networks, and the user's own model code, loaded and checked before any worker starts.

Others may import the functions of `factory.py`, and those of `user_code.py` to report errors of user code.
Nothing here may train a model.
"""
