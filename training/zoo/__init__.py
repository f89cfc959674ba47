"""Models: the built-in networks, and the user's own code, found and tried before any worker starts.

Others import the factory's functions, and `user_code.py` for errors in words.
Nothing here trains.
"""
