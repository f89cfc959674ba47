"""The user's tokenizer, as tasks find and call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ...storage.errors import UsageError
from ...storage.format.sequences import TOKENIZER, TokenForm
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.programs.loading import load_entry, open_code
from ...storage.programs.own_code import name_in
from ...storage.programs.user_code import describe_error
from .ids import TokenLists, lists_of, parse_ids

Tokenize = Callable[[list[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class TokenReading:
    """How the texts of a `column` become token ids: by the `tokenizer` of which the folder at `root` has a copy with
    the hashes `code`, or as the numbers that they are.

    With a `vocabulary`, larger ids are wrong, or padding if `unknown` allows them.
    """

    column: str
    root: str
    tokenizer: str | None = None
    code: dict[str, str] = field(default_factory=dict)
    vocabulary: int | None = None
    unknown: bool = False

    @classmethod
    def of(cls, form: TokenForm, root: Place, unknown: bool = True) -> Self:
        """How new texts become the ids of a dataset whose tokenizer is kept at `root`."""
        return cls(form.column, str(root), form.tokenizer, form.code, form.vocabulary, unknown)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)

    def read(self, texts: pa.Array) -> TokenLists:
        """The ids of texts. Raises UsageError if the tokenizer fails, or does not return a list for each text."""
        lists = parse_ids(texts) if self.tokenizer is None else self._tokenized(texts.fill_null("").to_pylist())
        if self.vocabulary is None or not (beyond := lists.ids >= self.vocabulary).any():
            return lists
        if self.unknown:
            return TokenLists.of(np.where(beyond, 0, lists.ids), lists.lengths, lists.wrong)
        rows = np.repeat(np.arange(len(lists.lengths)), lists.lengths)[beyond].tolist()
        reasons = {
            row: f"the token id {id} does not occur in the training data, whose largest is {self.vocabulary - 1}"
            for row, id in zip(rows, lists.ids[beyond].tolist(), strict=True)
        }
        return TokenLists(lists.ids, lists.lengths, {**reasons, **lists.wrong})

    def _tokenized(self, texts: list[str]) -> TokenLists:
        tokenize = _open(locate(self.root) / TOKENIZER, str(self.tokenizer), tuple(self.code.items()))
        try:
            found = tokenize(texts)
            if len(found) != len(texts):
                raise ValueError(f"it returned {len(found):,} lists of token ids for {len(texts):,} texts")
            return lists_of(found)
        except Exception as error:  # user code may raise anything
            raise UsageError(
                f"--tokenizer {self.tokenizer}: it failed for {len(texts):,} texts: {describe_error(error)}; take a "
                "list of texts, and return a list of token ids for each"
            ) from error


@lru_cache(8)
def _open(folder: Place, name: str, code: tuple[tuple[str, str], ...]) -> Tokenize:
    """The function of that name, imported from a copy of its files."""
    if not code:
        return load_entry("--tokenizer", name)
    open_code(folder, dict(code), [name])
    return load_entry("--tokenizer", name_in(folder, name))
