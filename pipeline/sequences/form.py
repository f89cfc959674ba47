"""What a conversion finds of sequences, and the form that follows from it."""

from dataclasses import dataclass
from typing import Self

from ...storage.errors import UsageError
from ...storage.format.sequences import TokenForm
from .ids import TokenLists

TRUNCATABLE = 4096
"""The longest sequence that is stored whole without --length: in memory, every row takes the space of the longest."""

HASHES = 1 << 24
"""The number of ids from which on they are taken for hashes: larger vocabularies are rare."""


def warning_of(vocabulary: int) -> str:
    """What to say about a vocabulary that is too large for most models; empty if it is not."""
    if vocabulary <= HASHES:
        return ""
    return ", for each of which a model has a vector; if the ids are hashes, take them modulo e.g. 100,000"


@dataclass(frozen=True)
class TokenFindings:
    """Of sequences of token ids, the longest one, the largest id, and the number of rows that are to be truncated."""

    longest: int = 0
    largest: int = 0
    truncated: int = 0

    @classmethod
    def of(cls, lists: TokenLists, most: int | None) -> Self:
        """The findings for some rows, of which `most` ids are kept."""
        largest, longest = (int(values.max(initial=0)) for values in (lists.ids, lists.lengths))
        return cls(longest, largest, int((lists.lengths > (most or longest)).sum()))

    def merged(self, other: "TokenFindings") -> "TokenFindings":
        """Both together."""
        longest, largest = max(self.longest, other.longest), max(self.largest, other.largest)
        return TokenFindings(longest, largest, self.truncated + other.truncated)

    def form(self, column: str, tokenizer: str | None, code: dict[str, str], length: int | None) -> TokenForm:
        """How the rows of a column become sequences. Raises UsageError if there are no ids, or too many in a row."""
        if not self.longest:
            raise UsageError(f"--tokens {column}: there are no token ids in this column but 0, which is padding")
        if length is None and self.longest > TRUNCATABLE:
            raise UsageError(
                f"--tokens {column}: the longest sequence has {self.longest:,} ids, and each row takes as much memory; "
                "truncate long ones with --length, e.g. --length 512"
            )
        return TokenForm(column, self.largest + 1, tokenizer, code, self.truncated)
