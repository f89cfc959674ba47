"""Models as ONNX files: a fold's network alone, or the whole ensemble with the preparation of rows in it.

The network is traced by torch. What torch cannot express is added to its graph here: one input per column, the codes of
categories, and the names of classes.
"""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...storage.errors import UsageError
from ...storage.format.arrays import IMAGE, TABLE, x_of
from ...storage.format.schema import Schema
from ...storage.machine import logging_from
from .ensemble import combine
from .objective import Objective
from .prediction import Predictor

if TYPE_CHECKING:
    import onnx

Stored = Tensor | dict[str, Tensor]
"""The `x` of a batch."""
EXAMPLE_ROWS = 2  # models are traced with so many rows; any number gives the same trace
LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
OUTPUTS = (LABEL, PROBABILITIES, PREDICTION)
ML, ML_VERSION = "ai.onnx.ml", 2  # the operators for strings
INNER = "network/"  # before all names in the traced graph, which columns might have too


class MeanOfFolds(nn.Module):
    """The predictions of an ensemble for stored rows, as `predict` combines them by default: the mean over the
    folds."""

    def __init__(self, predictors: Sequence[Predictor], schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.prepare = nn.ModuleList(one.prepare for one in predictors)
        self.models = nn.ModuleList(one.model for one in predictors)
        self.objectives = nn.ModuleList(one.objective for one in predictors)

    def forward(self, x: Stored) -> Tensor:
        parts = zip(self.prepare, self.models, self.objectives, strict=True)
        each = [cast(Objective, objective).predict(model(prepare(x))) for prepare, model, objective in parts]
        return combine(torch.stack(each), "mean", (), self.schema)


def example_rows(schema: Schema) -> Stored:
    """Rows of zeros as a dataset stores them."""
    arrays = {spec.name: np.zeros((EXAMPLE_ROWS, *spec.row_shape), spec.dtype) for spec in schema.arrays()}
    return x_of({name: torch.from_numpy(values) for name, values in arrays.items()})


def to_onnx(model: nn.Module, rows: Stored) -> bytes:
    """The file of a model that takes stored rows, traced with example rows."""
    data: bytes = trace(model, rows).SerializeToString()
    return data


def trace(model: nn.Module, rows: Stored) -> "onnx.ModelProto":
    """The graph of a model. Raises UsageError if the packages for ONNX are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is not installed; run 'pip install foldstream[export]'"
        ) from None
    any_rows = {0: torch.export.Dim("rows")}
    shapes = dict.fromkeys(rows, any_rows) if isinstance(rows, dict) else any_rows
    names = [*rows] if isinstance(rows, dict) else ["x"]
    # torch's exporter warns of each operator of torchvision that it is not installed.
    with logging_from(logging.ERROR, "torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own code
        warnings.filterwarnings("ignore", "# The axis name")  # that inputs have the same number of rows
        # torch takes a dict that comes last for keywords.
        program = torch.onnx.export(
            model, (rows, {}), input_names=names, output_names=["y"], dynamic_shapes=(shapes,), verbose=False
        )
    assert program
    return program.model_proto


def ensemble_to_onnx(predictors: Sequence[Predictor], schema: Schema) -> bytes:
    """The file of an ensemble, see `MeanOfFolds`.

    A table has one input per column, (rows,): numbers and dates (days or seconds since 1970) as double, NaN where one
    is missing, and categories as strings, empty where one is missing. Other samples are one input, `x` or `image`, as
    stored in the dataset. The outputs are `label` (rows,), the name of the most probable class, and `probabilities`
    (rows, classes); for multi-label data only these; for regression `prediction` (rows, labels).
    """
    rows, columns = example_rows(schema), has_columns(schema)
    if columns:  # a number is not rounded to the dtype of the training data
        exact = (rows[TABLE] if isinstance(rows, dict) else rows).double()
        rows = {**rows, TABLE: exact} if isinstance(rows, dict) else exact
    traced = trace(MeanOfFolds(predictors, schema).eval(), rows)
    import onnx

    graph = GraphBuilder(onnx.compose.add_prefix(traced, INNER))
    for value in graph.traced_inputs():
        if columns and value.name == INNER + (TABLE if schema.table else "x"):
            graph.add_columns(schema.tabular, value.name)
        else:
            graph.add_array(value, IMAGE if schema.image else "x")
    graph.add_outputs(schema)
    return graph.finish(describe(schema, len(predictors)))


def has_columns(schema: Schema) -> bool:
    """Whether rows have columns with a meaning of their own: neither pixels nor token ids."""
    return bool(schema.tabular.features) and len(schema.tabular.sample_shape) == 1 and not schema.tokens


def describe(schema: Schema, models: int) -> dict[str, str]:
    """The metadata of the file: what its inputs and outputs mean."""
    tabular = schema.tabular
    categories = {name: list(values) for name, values in tabular.categories.items()}
    classes = schema.dense.classes if schema.dense else schema.classes
    meaning = {"classes": classes, "labels": schema.labels, "categories": categories, "dates": tabular.dates}
    named = {name: json.dumps(value) for name, value in meaning.items()}
    return {"producer": "foldstream", "task": str(schema.task), "models": str(models), **named}


class GraphBuilder:
    """Adds inputs and outputs to a traced graph."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx

        self.onnx, self.model, self.graph = onnx, model, model.graph
        self.inputs: list[Any] = []
        self.before: list[Any] = []  # nodes whose results the traced ones need

    def traced_inputs(self) -> list[Any]:
        """The inputs of the traced graph."""
        return list(self.graph.input)

    def add_array(self, value: Any, name: str) -> None:
        """Make an array an input of that name."""
        renamed = type(value)()
        renamed.CopyFrom(value)
        renamed.name = name
        self.inputs.append(renamed)
        self.before.append(self.onnx.helper.make_node("Identity", [name], [value.name]))

    def add_columns(self, schema: Schema, target: str) -> None:
        """Make each column an input, and join them to the array `target`, (rows, columns) double."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        axis = f"{target}/axis"
        self.graph.initializer.append(helper.make_tensor(axis, kinds.INT64, [1], [1]))
        for name in schema.features:
            at, given = f"{target}/{name}", input_name(name)
            kind, values = kinds.DOUBLE, given
            if name in schema.categories:
                kind, values = kinds.STRING, f"{at}/code"
                self.before += self._codes(given, schema.categories[name], values)
            self.inputs.append(helper.make_tensor_value_info(given, kind, ["rows"]))
            self.before.append(helper.make_node("Unsqueeze", [values, axis], [at]))
        joined = [f"{target}/{name}" for name in schema.features]
        self.before.append(helper.make_node("Concat", joined, [target], axis=1))

    def _codes(self, name: str, values: Sequence[str], target: str) -> list[Any]:
        """Nodes that replace the strings of an input by their codes as double; the last one is of unknown values."""
        helper, whole = self.onnx.helper, f"{target}/whole"
        codes = {"keys_strings": list(values), "values_int64s": [*range(len(values))], "default_int64": len(values)}
        return [
            helper.make_node("LabelEncoder", [name], [whole], domain=ML, **codes),
            helper.make_node("Cast", [whole], [target], to=self.onnx.TensorProto.DOUBLE),
        ]

    def add_outputs(self, schema: Schema) -> None:
        """Name the output, and add the class names of the most probable classes."""
        helper, (traced,) = self.onnx.helper, self.graph.output
        name = PROBABILITIES if schema.probabilities else PREDICTION
        kind = traced.type.tensor_type.elem_type
        shape = schema.target_shape if schema.task == "segmentation" else schema.output_shape
        outputs = [helper.make_tensor_value_info(name, kind, ["rows", *shape])]
        self.graph.node.append(helper.make_node("Identity", [traced.name], [name]))
        if schema.classes:
            code = f"{INNER}{LABEL}/code"
            names = {"keys_int64s": [*range(len(schema.classes))], "values_strings": list(schema.classes)}
            self.graph.node.append(helper.make_node("ArgMax", [traced.name], [code], axis=1, keepdims=0))
            self.graph.node.append(helper.make_node("LabelEncoder", [code], [LABEL], domain=ML, **names))
            outputs.insert(0, helper.make_tensor_value_info(LABEL, self.onnx.TensorProto.STRING, ["rows"]))
        del self.graph.output[:]
        self.graph.output.extend(outputs)

    def finish(self, metadata: Mapping[str, str]) -> bytes:
        """The file of the whole graph, checked."""
        del self.graph.input[:]
        self.graph.input.extend(self.inputs)
        nodes = [*self.before, *self.graph.node]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self.model.opset_import.append(self.onnx.helper.make_opsetid(ML, ML_VERSION))
        self.onnx.helper.set_model_props(self.model, dict(metadata))
        self.onnx.checker.check_model(self.model)
        data: bytes = self.model.SerializeToString()
        return data


def input_name(column: str) -> str:
    """The name of a column's input: the column's own, unless an output has it."""
    return f"{column} (column)" if column in OUTPUTS else column
