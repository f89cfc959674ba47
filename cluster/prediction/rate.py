"""The progress of a prediction in rows, and how many a second."""

from time import perf_counter

from ...storage.tasks import Progress

PREDICT = "predict"  # the stage


class RowRate:
    """Reports how many of `rows` are predicted; `done` of them were before."""

    def __init__(self, rows: int, progress: Progress, done: int = 0) -> None:
        self.rows, self.progress = rows, progress
        self.done = self.before = done
        self.began = perf_counter()
        progress(PREDICT, done, rows, "rows")

    def add(self, rows: int) -> None:
        """Report that more rows are predicted."""
        self.done += rows
        rate = (self.done - self.before) / (perf_counter() - self.began)
        self.progress(PREDICT, self.done, self.rows, f"rows, {rate:,.0f} rows/s")
