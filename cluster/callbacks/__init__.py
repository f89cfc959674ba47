"""Callbacks: code that is notified of a run's events, the user's own or an experiment tracker's.

The API creates them, and `Callback` is public; the trackers are entry points of this package.
Nothing here may change a run: callbacks only observe it.
"""
