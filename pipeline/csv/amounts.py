"""Amounts: numbers that are written with a currency, a percent sign, parentheses or separators of thousands."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

AMOUNT, LOCAL = "amount", "local number"
"""The formats of a column of amounts, and of one whose numbers are written as the dialect has them, or with spaces."""

CURRENCY = r"(?:[A-Z]{0,3}\p{Sc}|[A-Z]{3}|[kK]r\.?|zł|Kč|Ft)"
SPACE = r"[ \x{00a0}\x{202f}]?"
SIGN = r"[+\-\x{2212}]?"
PLAIN = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"


def _pattern(decimal: str) -> str:
    """The regular expression of amounts. Of comma and point, the one that is not the decimal point separates thousands,
    and so do an apostrophe and a space."""
    mark = rf"[{',' if decimal == '.' else '.'}'’ \x{{00a0}}\x{{202f}}]"
    whole = rf"(?P<whole>\d{{1,3}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}|\d+|)"
    number = rf"{whole}(?:{re.escape(decimal)}(?P<part>\d*))?"
    before = rf"(?P<open>\(?)(?P<outer>{SIGN}){SPACE}{CURRENCY}?{SPACE}(?P<inner>{SIGN})"
    return rf"^{before}{number}{SPACE}(?P<percent>%?){SPACE}{CURRENCY}?(?P<close>\)?)$"


def plain_amounts(texts: pa.Array, decimal: str = ".") -> pa.Array:
    """Rewrite amounts as plain numbers, and any other text as "": $1,200.50 as 1200.50, (5) as -5, and 12% as 12.e-2,
    which is 0.12."""
    texts = pc.utf8_trim_whitespace(texts)
    found = pc.extract_regex(texts, _pattern(decimal))
    part = {field.name: pc.fill_null(found.field(place), "") for place, field in enumerate(found.type)}
    whole = pc.replace_substring_regex(part["whole"], r"\D", "")
    in_brackets = pc.equal(part["open"], "(")
    signs = pc.binary_join_element_wise(part["outer"], part["inner"], pc.if_else(in_brackets, "-", ""), "")
    sign = pc.if_else(pc.match_substring_regex(signs, r"[-\x{2212}]"), "-", "")
    power = pc.if_else(pc.equal(part["percent"], "%"), "e-2", "")
    plain = pc.binary_join_element_wise(
        sign, whole, pc.if_else(pc.equal(part["part"], ""), "", "."), part["part"], power, ""
    )
    closed = pc.equal(in_brackets, pc.equal(part["close"], ")"))
    once = pc.less_equal(pc.utf8_length(signs), 1)
    digits = pc.greater(pc.add(pc.utf8_length(whole), pc.utf8_length(part["part"])), 0)
    valid = pc.and_(pc.and_(found.is_valid(), closed), pc.and_(once, digits))
    plain = pc.if_else(valid, plain, "")
    if decimal == ".":
        plain = pc.if_else(pc.match_substring_regex(texts, PLAIN), texts, plain)
    return pc.if_else(texts.is_valid(), plain, pa.scalar(None, pa.string()))


def find_amounts(texts: Sequence[str], decimal: str = ".") -> list[str]:
    """Those texts that are amounts."""
    plain = plain_amounts(pa.array(texts, pa.string()), decimal).to_pylist()
    return [text for text, number in zip(texts, plain, strict=True) if number]


def read_amounts(texts: pa.Array, decimal: str = ".") -> tuple[pa.Array, dict[int, str]]:
    """The amounts of texts as plain numbers, null where a text is missing, and why a text is none."""
    plain = plain_amounts(texts, decimal)
    wrong = np.flatnonzero(pc.equal(plain, "").fill_null(False).to_numpy(zero_copy_only=False)).tolist()
    return plain, {row: not_a_number(texts[row].as_py()) for row in wrong}


def not_a_number(text: str, kind: str = "") -> str:
    """The reason why a text is not a number."""
    shown = text if len(text) <= 40 else text[:40] + "…"
    return f"'{shown}' is not a {kind}number"
