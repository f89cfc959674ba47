"""Searches over settings: candidates are drawn, trained together in passes, and stopped at rungs if others are better.

`plan.py` decides as a pure function of committed results what comes next; `loop.py` carries it out with a trainer that
it is given; all folders above may import both, `record.py` and `report.py`. Nothing here may train a model, start a
cluster or print.
"""
