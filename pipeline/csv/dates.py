"""Dates as text: the ways to write them, which one a column uses, and their values in UTC.

A way is YEAR_FIRST, DAY_FIRST or MONTH_FIRST, which allow several delimiters, a time of day, a fraction and a zone, or
a format as in `strptime`. Each is a regular expression whose groups are the parts of a date, so that all are parsed by
the same arithmetic on columns.
"""

import re
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import UsageError

YEAR_FIRST, DAY_FIRST, MONTH_FIRST = "", "day first", "month first"
NAMED, NAMED_FIRST = "named month", "named month first"

_YEAR, _MONTH, _DAY = r"(?P<Y>\d{4,6})", r"(?P<m>\d{1,2})", r"(?P<d>\d{1,2})"
_NAME = r"(?P<b>[A-Za-z]{3,9})\.?"
_CLOCK = r"(?P<H>\d{1,2})(?::(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?)?(?: ?(?P<p>[AaPp])\.?[Mm]\.?)?"
_ZONE = r"(?:[Zz]|UTC|GMT|(?P<o>[+-])(?P<h>\d{2}):?(?P<n>\d{2})?)"
_TIME = rf"(?:(?:[Tt]|,? +){_CLOCK}(?: ?{_ZONE})?)?"
WAYS = {
    YEAR_FIRST: rf"{_YEAR}(?P<u>[-/.]){_MONTH}(?P<v>[-/.]){_DAY}{_TIME}",
    DAY_FIRST: rf"{_DAY}(?P<u>[-/.]){_MONTH}(?P<v>[-/.]){_YEAR}{_TIME}",
    MONTH_FIRST: rf"{_MONTH}(?P<u>[-/.]){_DAY}(?P<v>[-/.]){_YEAR}{_TIME}",
    NAMED: rf"(?:[A-Za-z]{{3,9}}, )?{_DAY}(?:[-/ ]|\. ?){_NAME}[-/ ]{_YEAR}{_TIME}",
    NAMED_FIRST: rf"{_NAME} {_DAY},? {_YEAR}{_TIME}",
}
"""The regular expression of each way that is recognized in a sample."""
EXAMPLES = {
    YEAR_FIRST: "such as 2026-11-24 or 2026-11-24 18:30:00",
    DAY_FIRST: "such as 24.11.2026, with the day first",
    MONTH_FIRST: "such as 11/24/2026, with the month first",
    NAMED: "such as 24 Nov 2026",
    NAMED_FIRST: "such as Nov 24, 2026",
}

DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d{2})",
    "m": r"(?P<m>\d{1,2})",
    "d": r"(?P<d>[ \d]?\d)",
    "e": r"(?P<d>[ \d]?\d)",
    "j": r"(?P<j>\d{1,3})",
    "b": r"(?P<b>[A-Za-z]{3,9})",
    "B": r"(?P<b>[A-Za-z]{3,9})",
    "a": r"[A-Za-z]+",
    "A": r"[A-Za-z]+",
    "H": r"(?P<H>[ \d]?\d)",
    "I": r"(?P<H>[ \d]?\d)",
    "M": r"(?P<M>\d{1,2})",
    "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,9})",
    "g": r"(?P<f>\d{1,3})",
    "n": r"(?P<f>\d{1,9})",
    "p": r"(?P<p>[AaPp])\.?[Mm]\.?",
    "z": r"(?:[Zz]|(?P<o>[+-])(?P<h>\d{2}):?(?P<n>\d{2})?)",
    "Z": r"(?:[Zz]|UTC|GMT)",
    "%": "%",
}
"""The directives of formats. Milli- and nanoseconds are `%g` and `%n` as in DuckDB."""
COMPOSED = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y"}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH_NAMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
               "november", "december")  # fmt: skip

FOUR_DIGITS = re.compile(r"\d{4}")  # a year
SHORT = re.compile(r"\d{1,2}([-/])\d{1,2}\1\d{2}|\d{2}\.\d{2}\.\d{2}")
"""A date whose year has two digits."""

FIRST, LAST = -62_135_596_800, 253_402_300_799  # seconds of the years 1 to 9999
NANOSECONDS = 9_223_372_036  # seconds up to which a timestamp can count nanoseconds
KINDS = pa.timestamp("s"), pa.timestamp("s", "UTC")  # that Arrow parses


def pattern_of(way: str) -> str:
    """The regular expression for a way of writing dates. Raises UsageError for a format that is not valid."""
    if way in WAYS:
        return rf"^{WAYS[way]}$"
    written = re.sub("%([FTRD])", lambda found: COMPOSED[found[1]], way)
    parts, seen = [], list[str]()
    for directive, text in re.findall(r"%[-#]?(.)|([^%]+|%$)", written):
        if not directive:
            parts.append(re.escape(text))
            continue
        if directive not in DIRECTIVES:
            known = " ".join(f"%{letter}" for letter in sorted((*DIRECTIVES, *COMPOSED), key=str.lower))
            raise UsageError(f"--date-format {way}: '%{directive}' is not supported; use {known}")
        seen += re.findall(r"\?P<(.)>", DIRECTIVES[directive])
        parts.append(DIRECTIVES[directive])
    if len(set(seen)) < len(seen) or not {"Y", "y"} & {*seen}:
        problem = "has a part twice" if len(set(seen)) < len(seen) else "has no year"
        raise UsageError(f"--date-format {way}: the format {problem}; use one such as %d.%m.%Y")
    return rf"^{''.join(parts)}$"


def parse_dates(texts: pa.Array, way: str = YEAR_FIRST) -> tuple[pa.Array, dict[int, str]]:
    """Parse dates as timestamps in UTC, null where a text is missing or invalid; and why a text is not a date.

    The timestamps count seconds, or micro- or nanoseconds if fractions need them.
    """
    if way == YEAR_FIRST and (quick := _parse_quickly(texts)) is not None:
        return quick, {}
    texts = pc.utf8_trim_whitespace(texts)
    seconds, fractions, valid = _evaluate(texts, way)
    reasons = {}
    for row in np.flatnonzero(~valid & texts.is_valid().to_numpy(zero_copy_only=False)).tolist():
        reasons[row] = why_invalid(texts[row].as_py(), way)
    return timestamps(seconds, fractions, valid), reasons


def _parse_quickly(texts: pa.Array) -> pa.Array | None:
    """The dates if Arrow can parse all of them; it knows no fractions of seconds without their number."""
    for kind in KINDS:
        with suppress(pa.ArrowInvalid):
            dates = texts.cast(kind).cast(KINDS[0])
            seconds = dates.cast(pa.int64())
            return None if (pc.min(seconds).as_py() or 0) < FIRST else dates
    return None


class _Parts:
    """The parts of texts that match a pattern, by the letters of their groups."""

    def __init__(self, texts: pa.Array, way: str) -> None:
        found = pc.extract_regex(texts, pattern_of(way))
        self.length = len(texts)
        self.by_letter = {field.name: found.field(place) for place, field in enumerate(found.type)}
        self.matches: np.ndarray = found.is_valid().to_numpy(zero_copy_only=False)

    def __contains__(self, letter: str) -> bool:
        return letter in self.by_letter

    def number(self, letter: str, default: int) -> np.ndarray:
        """A part as numbers, (n,) int64, with a default for texts that do not have it."""
        if letter not in self:
            return np.full(self.length, default)
        digits = pc.utf8_trim_whitespace(pc.fill_null(self.by_letter[letter], ""))
        digits = pc.if_else(pc.equal(digits, ""), str(default), digits)
        numbers: np.ndarray = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return numbers

    def text(self, letter: str) -> pa.Array:
        """A part in lower case, empty for texts that do not have it."""
        if letter not in self:
            return pa.array([""] * self.length)
        return pc.utf8_lower(pc.fill_null(self.by_letter[letter], ""))

    def equals(self, letter: str, value: str) -> np.ndarray:
        """Whether a part is this text, (n,) bool."""
        same: np.ndarray = pc.equal(self.text(letter), value).to_numpy(zero_copy_only=False)
        return same


def _evaluate(texts: pa.Array, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The seconds since 1970 of texts, the nanoseconds beyond them, and which are dates, (n,) each."""
    parts = _Parts(texts, way)
    days, of_days = _days(parts)
    times, of_times = _times(parts)
    offset = (parts.number("h", 0) * 60 + parts.number("n", 0)) * 60
    seconds = days * 86_400 + times - np.where(parts.equals("o", "-"), -offset, offset)
    valid = parts.matches & of_days & of_times & (seconds >= FIRST) & (seconds <= LAST)
    if "u" in parts:  # both delimiters
        valid &= pc.equal(parts.text("u"), parts.text("v")).to_numpy(zero_copy_only=False)
    fractions: np.ndarray = pc.utf8_rpad(parts.text("f"), 9, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return seconds, fractions, valid


def _days(parts: _Parts) -> tuple[np.ndarray, np.ndarray]:
    """The days since 1970, and which are valid."""
    year, month, day = parts.number("Y", 0), parts.number("m", 1), parts.number("d", 1)
    if "y" in parts:
        year = parts.number("y", 0)
        year = year + np.where(year < 69, 2000, 1900)  # as POSIX has it
    if "b" in parts:
        name = parts.text("b")
        short, full = (pc.index_in(name, pa.array(names)) for names in (MONTHS, MONTH_NAMES))
        month = pc.coalesce(short, full).fill_null(-1).to_numpy(zero_copy_only=False) + 1
    valid = (year >= 1) & (year <= 9999) & (month >= 1) & (month <= 12)
    months = ((np.where(valid, year, 1970) - 1970) * 12 + np.where(valid, month, 1) - 1).astype("datetime64[M]")
    first, after = (at.astype("datetime64[D]").astype(np.int64) for at in (months, months + 1))
    if "j" in parts:
        day = parts.number("j", 1)
        after = (months.astype("datetime64[Y]") + 1).astype("datetime64[D]").astype(np.int64)
    return first + day - 1, valid & (day >= 1) & (day <= after - first)


def _times(parts: _Parts) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of the day, and which are valid."""
    hour, minute, second = parts.number("H", 0), parts.number("M", 0), parts.number("S", 0)
    evening = parts.equals("p", "p")
    halves = evening | parts.equals("p", "a")
    valid = (minute < 60) & (second < 60) & np.where(halves, (hour >= 1) & (hour <= 12), hour < 24)
    hour = np.where(halves, hour % 12 + 12 * evening, hour)
    return hour * 3600 + minute * 60 + second, valid


def timestamps(seconds: np.ndarray, fractions: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Timestamps from seconds since 1970 and the nanoseconds beyond them, null unless `valid`: in seconds, or in micro-
    or nanoseconds if fractions need them and the years allow it."""
    seconds, fractions = np.where(valid, seconds, 0), np.where(valid, fractions, 0)
    unit, parts = "s", 1
    if fractions.any():
        near = (np.abs(seconds) < NANOSECONDS).all()
        unit, parts = ("ns", 10**9) if (fractions % 1000).any() and near else ("us", 10**6)
    counts = seconds * parts + fractions // (10**9 // parts)
    return pa.array(counts, mask=~valid).cast(pa.timestamp(unit))


def why_invalid(text: str, way: str) -> str:
    """Why a text is not a date."""
    shown = text if len(text) <= 40 else text[:40] + "…"
    year = re.search(r"(?<!\d)(\d{4,6})(?!\d)", text)
    if way in WAYS and year and re.fullmatch(WAYS[way], text) and not 1 <= int(year[1]) <= 9999:
        return f"'{shown}' is not a date between the years 1 and 9999"
    return f"'{shown}' is not a date {EXAMPLES.get(way, f'in the format {way}')}"


def count_dates(texts: pa.Array, way: str) -> int:
    """How many texts are dates that are written this way."""
    return int(_evaluate(pc.utf8_trim_whitespace(texts), way)[2].sum())


def find_ways(values: Sequence[str], preferred: str | None = None) -> tuple[str, ...]:
    """The ways in which most of these texts can be read as dates: none if most are no dates, and two if the order of
    day and month is not clear. Among equal ways, the `preferred` one is chosen."""
    different = list(dict.fromkeys(value.strip() for value in values))
    years = sum(FOUR_DIGITS.search(value) is not None for value in different)
    if preferred in (None, *WAYS) and 2 * years < len(different):  # which is quick to see
        return ()
    texts = pa.array(different, pa.string())
    ways = [*WAYS] if preferred is None or preferred in WAYS else [*WAYS, preferred]
    shaped = {way: pc.sum(pc.match_substring_regex(texts, pattern_of(way))).as_py() or 0 for way in ways}
    ways = [way for way in ways if 2 * shaped[way] >= len(texts)]
    if not ways:
        return ()
    counts = {way: count_dates(texts, way) for way in ways}
    best = [way for way in ways if counts[way] == max(counts.values())]
    if preferred in best:
        return (preferred,)
    unclear = counts[best[0]] and {DAY_FIRST, MONTH_FIRST} <= {*best}
    return (DAY_FIRST, MONTH_FIRST) if unclear else (best[0],)


def short_formats(values: Sequence[str]) -> list[str]:
    """The formats with years of two digits that most of these texts have, such as 31.01.20; none for other texts."""
    different = list(dict.fromkeys(value.strip() for value in values))
    found = [value for value in different if SHORT.fullmatch(value.partition(" ")[0])]
    if not found or 2 * len(found) < len(different):
        return []
    mark, texts = re.sub(r"\d", "", found[0])[0], pa.array([value.partition(" ")[0] for value in found], pa.string())
    orders = (("%d", "%m", "%y"), ("%m", "%d", "%y"), ("%y", "%m", "%d"))
    counts = {mark.join(order): count_dates(texts, mark.join(order)) for order in orders}
    best = max(counts.values())
    return [one + _clock_format(found[0]) for one, count in counts.items() if count == best and best]


def as_format(way: str, example: str) -> str:
    """A format for --date-format that reads dates such as `example`, with the day or the month first."""
    mark = next(letter for letter in example if letter in "-/.")
    return mark.join(("%d", "%m", "%Y") if way == DAY_FIRST else ("%m", "%d", "%Y")) + _clock_format(example)


def _clock_format(example: str) -> str:
    """The format of the time of day after a date, if there is one."""
    clock = re.search(_CLOCK + "$", example.partition(" ")[2])
    if not clock:
        return ""
    parts = ["%I" if clock["p"] else "%H", "%M" if clock["M"] else "", "%S" if clock["S"] else ""]
    return f" {':'.join(filter(None, parts))}{'.%f' if clock['f'] else ''}{' %p' if clock['p'] else ''}"
