"""What people look at: the report of a complete run, and the pages of work that is under way.

The API writes the report; `watch.py` serves a run's page, and Dask's scheduler preloads `dask_page.py`.
Nothing here changes a run: pages read its record.
"""
