"""A run as a service: rows in, answers out, without anything about HTTP."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...pipeline.in_memory import EncodedRows, RowEncoder, TokenEncoder, decode_in_memory
from ...pipeline.sequences.tokenizer import TokenReading
from ...storage.errors import UsageError
from ...storage.format.arrays import IMAGE, TABLE
from ...storage.format.images import ImageForm
from ...storage.format.statistics import Statistics
from ...storage.options import Location
from ...storage.places.locate import locate
from ...training.run import read_result
from ..prediction.members import read_members
from .bodies import GivenRow, Problem
from .openapi import example_values

X = "x"


@dataclass(frozen=True)
class Answer:
    """The predictions of all rows of a request, and warnings; or the problems of invalid rows, and no predictions."""

    predictions: tuple[dict[str, Any], ...] = ()
    warnings: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"predictions": self.predictions, "warnings": [warning.to_json() for warning in self.warnings]}


class Service:
    """The models of a complete run, or of an ensemble of runs, and the encoders of its rows."""

    def __init__(self, run: Location, ensemble: str = "mean") -> None:
        members = read_members(locate(str(run)))
        members.check_ensemble(ensemble)
        folder, self.schema = members.first, members.schema
        if self.schema.windows:
            raise UsageError(
                f"{run}: its models take windows over time series, which cannot be sent row by row; predict a file of "
                "rows with 'foldstream predict'"
            )
        if what := self.schema.target_name:
            raise UsageError(f"{run}: {what} cannot be served; write them with 'foldstream predict {run} SOURCE OUT/'")
        self.models = members.load(ensemble)
        self.encoder: RowEncoder | TokenEncoder | None = None
        if tokens := self.schema.tokens:
            self.encoder = TokenEncoder(self.schema, TokenReading.of(tokens, folder.root))
        elif self.schema.tabular.features:
            self.encoder = RowEncoder(self.schema.tabular)
        fitted = read_result(folder.fold(0)).get("statistics")
        self.example = example_values(self.schema, Statistics.from_json(fitted) if fitted else None)

    def warm_up(self) -> None:
        """Predict an example, which compiles what reads rows, and fails now if a model cannot be used."""
        texts = {name: str(value) for name, value in self.example.items()}
        form = self.schema.image
        self.answer([[GivenRow(texts, black_image(form) if form else b"")]])

    def answer(self, requests: Sequence[Sequence[GivenRow]]) -> list[Answer]:
        """Predict the rows of several requests together."""
        rows = [row for request in requests for row in request]
        parts = self._encode(rows)
        problems, warnings = dict[int, Problem](), dict[int, list[Problem]]()
        for name, part in parts.items():
            for row, (column, reason) in part.errors.items():
                problems[row] = Problem(reason, row, IMAGE if name == IMAGE else column)
            for row, column in part.unknown:
                warnings.setdefault(row, []).append(Problem(_unknown(rows[row].texts[column]), row, column))
        valid = [row for row in range(len(rows)) if row not in problems]
        predictions = dict(zip(valid, self._predict(parts, valid), strict=True))
        answers, first = list[Answer](), 0
        for request in requests:
            numbers = range(first, first + len(request))
            first = numbers.stop
            if wrong := [problems[row].of_request(numbers) for row in numbers if row in problems]:
                answers.append(Answer(problems=tuple(wrong)))
                continue
            said = (one.of_request(numbers) for row in numbers for one in warnings.get(row, ()))
            answers.append(Answer(tuple(self._named(predictions[row], rows[row].id) for row in numbers), tuple(said)))
        return answers

    def _encode(self, rows: Sequence[GivenRow]) -> dict[str, EncodedRows]:
        """The arrays of the rows by name, each with its invalid rows."""
        parts = dict[str, EncodedRows]()
        if self.schema.image:
            parts[IMAGE if self.schema.table else X] = decode_in_memory([row.image for row in rows], self.schema.image)
        if self.encoder:
            parts[TABLE if self.schema.image else X] = self.encoder.encode([row.texts for row in rows])
        return parts

    def _predict(self, parts: Mapping[str, EncodedRows], valid: Sequence[int]) -> np.ndarray:
        """The predictions of the rows that are valid in all parts, (rows, outputs)."""
        if not valid:
            return np.empty((0, self.schema.outputs))
        arrays = dict[str, torch.Tensor]()
        for name, part in parts.items():
            there = [row for row in range(len(part.x) + len(part.errors)) if row not in part.errors]
            chosen = np.isin(there, valid)
            arrays[name] = torch.from_numpy(part.x[chosen])
        return self.models(arrays if len(arrays) > 1 else arrays[X])

    def _named(self, prediction: np.ndarray, id: Any) -> dict[str, Any]:
        """A prediction by the names of its classes or labels."""
        schema = self.schema
        values = [prediction.tolist()] if schema.dense else prediction.tolist()
        by_name = dict(zip(schema.classes or schema.labels, values, strict=True))
        found: dict[str, Any] = {} if id is None else {"id": id}
        if schema.classes:
            found["label"] = schema.classes[int(prediction.argmax())]
        found["probabilities" if schema.probabilities else "prediction"] = by_name
        return found


def _unknown(text: str) -> str:
    shown = f"'{text}'" if text else "a missing value"
    return f"{shown} does not occur in the training data, and counts as unknown"


def black_image(form: ImageForm) -> bytes:
    """A file of a small black image."""
    file = io.BytesIO()
    Image.new("RGB", (form.size[1], form.size[0])).save(file, "PNG")
    return file.getvalue()
