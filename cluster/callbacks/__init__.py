"""Callbacks: user code or experiment trackers that are notified of a run's events.

The API creates them, and `Callback` is public; the trackers are entry points of this package.
Nothing here may change a run: callbacks only observe it.
"""
