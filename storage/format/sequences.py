"""Sequences of token ids: how they are stored, and what is known of them.

The ids of a row are a row of `x`, (length,), with 0 at the end as padding; the array `length` says how many there are.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from ..places.place import Place
from ..programs.own_code import Code

LENGTH = "length"  # the array of the number of ids of each row
TOKENIZER = "tokenizer"  # the folder of a dataset or a run with the user's tokenizer
PADDING = 0
MOST_SHOWN = 20  # ids of a row
BESIDE_TOKENS = "samples are sequences of tokens"  # why other columns are dropped


def ids_text(ids: list[int]) -> str:
    """The first token ids of a row, for people."""
    more = f" … {len(ids) - MOST_SHOWN:,} more" if len(ids) > MOST_SHOWN else ""
    return " ".join(map(str, ids[:MOST_SHOWN])) + more


@dataclass(frozen=True)
class TokenForm:
    """How rows became sequences of token ids.

    They are in the `column`, or a `tokenizer` makes them of its texts: a name of code relative to the folder
    TOKENIZER, where its files have the hashes `code`, or that of an installed package. Ids are below `vocabulary`.
    `truncated` sequences were longer than a row.
    """

    column: str
    vocabulary: int
    tokenizer: str | None = None
    code: dict[str, str] = field(default_factory=dict)
    truncated: int = field(default=0, compare=False)

    def code_in(self, root: Place) -> Code:
        """The files of the tokenizer that a dataset or a run keeps."""
        return Code(files={file: root / TOKENIZER / file for file in self.code}, hashes=self.code)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)
