"""The description of a service for its clients: an OpenAPI document made from the columns of a run."""

from typing import Any

from ...pipeline.csv.dates import EXAMPLES, YEAR_FIRST
from ...storage.format.arrays import IMAGE
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from .bodies import content_types

MOST_EXAMPLES = 20  # of the values of a category
DATE = {
    "day first": "24.11.2026",
    "month first": "11/24/2026",
    "named month": "24 Nov 2026",
    "named month first": "Nov 24, 2026",
}
EXAMPLE_DATE = "2026-11-24"


def example_values(schema: Schema, statistics: Statistics | None) -> dict[str, Any]:
    """A row to try the service with: means of numbers, the first of the categories."""
    tabular = schema.tabular
    vector = len(tabular.sample_shape) == 1 and statistics
    means = dict(zip(tabular.features, statistics.tabular.mean, strict=True)) if vector and statistics else {}
    values = dict[str, Any]()
    for name in tabular.features:
        if schema.tokens:
            values[name] = "An example." if schema.tokens.tokenizer else [1, 2, 3]
        elif name in tabular.categories:
            values[name] = next(filter(None, tabular.categories[name]), "")
        elif name in tabular.dates:
            values[name] = _date(tabular.formats.get(name, YEAR_FIRST))
        else:
            values[name] = float(f"{means.get(name, 0.0):.4g}")
    return values


def _date(way: str) -> str:
    return DATE.get(way, EXAMPLE_DATE)


def row_schema(schema: Schema, example: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a row."""
    properties = {name: _column(schema.tabular, name, example) for name in schema.tabular.features}
    if schema.image:
        form = schema.image
        what = f"An image file in base64. It is resized to {form.size[1]}×{form.size[0]} pixels, {form.color}."
        properties[IMAGE] = {"type": "string", "contentEncoding": "base64", "description": what}
    required = [*properties]
    if schema.key:
        properties[schema.key] = {
            "type": ["string", "integer", "null"],
            "description": "Identifies the row; it is returned with the prediction.",
        }
    return {"type": "object", "properties": properties, "required": required}


def _column(schema: Schema, name: str, example: dict[str, Any]) -> dict[str, Any]:
    if schema.tokens:
        form: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
        if schema.tokens.tokenizer:
            form = {"type": ["string", "null"], "description": "A text that the run's tokenizer reads."}
        return {**form, "examples": [example[name]]}
    if name in schema.categories:
        values = [value for value in schema.categories[name] if value]
        return {
            "type": ["string", "null"],
            "description": f"One of {len(values):,} values; any other one counts as unknown.",
            "examples": values[:MOST_EXAMPLES],
        }
    if name in schema.dates:
        way = schema.formats.get(name, YEAR_FIRST)
        text = f"A date {EXAMPLES.get(way, f'in the format {way}')}."
        return {"type": ["string", "null"], "description": text, "examples": [example[name]]}
    return {"type": ["number", "null"], "examples": [example[name]]}


def _prediction_schema(schema: Schema) -> dict[str, Any]:
    number: dict[str, Any] = {"type": "number"}
    if schema.dense:
        number = {"type": "array", "items": number, "minItems": schema.outputs, "maxItems": schema.outputs}
    names = schema.classes or schema.labels
    values = {"type": "object", "properties": dict.fromkeys(names, number), "required": [*names]}
    properties: dict[str, Any] = {"probabilities" if schema.probabilities else "prediction": values}
    if schema.classes:
        properties["label"] = {"type": "string", "enum": [*schema.classes]}
    required = [*properties]
    if schema.key:
        properties["id"] = {"description": f"The row's '{schema.key}', if it was given."}
    return {"type": "object", "properties": properties, "required": required}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(name)}}


def _body(schema: Schema, example: dict[str, Any]) -> dict[str, Any]:
    """The bodies that a request may have."""
    row = _reference("Row")
    of_json: dict[str, Any] = {"schema": {"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]}}
    if not schema.image:
        of_json["example"] = example
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "additionalProperties": {"type": "array", "items": file}}
    others: dict[str, Any] = {
        "text/csv": {"schema": {"type": "string"}},
        "image/*": {"schema": {}},
        "multipart/form-data": {"schema": form},
    }
    return {name: others.get(name, of_json) for name in content_types(schema)}


def describe_service(schema: Schema, run: str, example: dict[str, Any], with_token: bool) -> dict[str, Any]:
    """The OpenAPI document of a service."""
    answers = {"200": {"description": "The predictions, in the order of the rows.", "content": _json("Predictions")}}
    errors = {
        "400": "The body cannot be read.",
        "401": "The token is missing or wrong.",
        "413": "The body is too large.",
        "415": "The body has another content type.",
        "422": "Some rows are invalid; nothing was predicted.",
        "503": "Too many requests are waiting; try again later.",
    }
    for status, text in errors.items():
        if status != "401" or with_token:
            answers[status] = {"description": text, "content": _json("Errors")}
    problem = {
        "type": "object",
        "properties": {"row": {"type": "integer"}, "column": {"type": "string"}, "reason": {"type": "string"}},
        "required": ["reason"],
    }
    problems = {"type": "array", "items": _reference("Problem")}
    schemas = {
        "Row": row_schema(schema, example),
        "Prediction": _prediction_schema(schema),
        "Predictions": {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": _reference("Prediction")}, "warnings": problems},
            "required": ["predictions", "warnings"],
        },
        "Problem": problem,
        "Errors": {"type": "object", "properties": {"errors": problems}, "required": ["errors"]},
    }
    components: dict[str, Any] = {"schemas": schemas}
    post = {
        "summary": "Predict rows",
        "operationId": "predict",
        "requestBody": {"required": True, "content": _body(schema, example)},
        "responses": answers,
    }
    healthy = {
        "200": {"description": "The service is ready.", "content": {"application/json": {"schema": {"type": "object"}}}}
    }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"Predictions of {run}", "version": "1"},
        "paths": {
            "/predict": {"post": post},
            "/health": {"get": {"summary": "Whether the service is ready", "security": [], "responses": healthy}},
        },
        "components": components,
    }
    if with_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document
