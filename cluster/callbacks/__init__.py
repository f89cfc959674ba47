"""Callbacks: code that is told what happens in a run, the user's own and that for other trackers.

The API makes them; `Callback` is public.
Nothing here changes a run.
"""
