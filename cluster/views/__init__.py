"""Reports of complete runs, and live pages of runs and conversions.

The API writes the report, `watch.py` serves the page of a run, and Dask's dashboard has `dask_page.py`.
Nothing here may change a run: pages only read its record.
"""
