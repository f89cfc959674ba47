"""Models: the built-in networks, how the user's own are called, loaded and checked before any worker starts.

Others may import the functions of `factory.py` and `auto.py`, and `model_errors.py` to report errors of a model.
Nothing here may train a model.
"""
