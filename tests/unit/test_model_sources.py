"""What a factory asks for is told by its parameters, which its source tells without torch where it does."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from foldstream.storage.errors import UsageError
from foldstream.training.zoo.arguments import match_parameters, settings_in, signature_in_source
from foldstream.training.zoo.factory import BUILT_IN, load_factory, signature_of

MODELS = """
from functools import cache
from torch import nn

SIZE = 4

def plain(sample_shape, outputs, hidden=8, rate=-0.5, name="a", *, deep=False): ...
def any_name(sample_shape, outputs, **settings): ...
def computed(sample_shape, outputs, hidden=SIZE): ...

@cache
def decorated(sample_shape, outputs, hidden=8): ...

class Net(nn.Module):
    def __init__(self, sample_shape, outputs, hidden=3):
        super().__init__()

class Inherited(Net):
    pass

assigned = plain
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"hidden": 8, "rate": -0.5, "name": "a", "deep": False}),
        ("any_name", {"**": None}),
        ("Net", {"hidden": 3}),
        *((name, None) for name in ("computed", "decorated", "Inherited", "assigned", "missing")),
    ],
)
def test_what_a_source_tells_is_what_the_factory_has(name: str, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODELS)
    told = signature_in_source(MODELS.encode(), name)
    assert (told and settings_in(told)) == expected
    if told:
        assert told == inspect.signature(load_factory(f"{tmp_path}/own.py:{name}")).replace(
            return_annotation=inspect.Signature.empty
        )
    elif name != "missing":
        assert "sample_shape" in match_parameters(signature_of(f"{tmp_path}/own.py:{name}"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_models_tell_their_settings(name: str) -> None:
    assert settings_in(signature_of(name)) == settings_in(inspect.signature(load_factory(name)))


def test_sources_that_cannot_be_read_are_left_to_who_loads_them(tmp_path: Path) -> None:
    assert signature_in_source(b"def make(:\n", "make") is None
    with pytest.raises(UsageError, match=r"none\.py: the file does not exist"):
        signature_of(f"{tmp_path}/none.py:make")
    with pytest.raises(UsageError, match="did you mean 'mlp'"):
        signature_of("mpl")


@pytest.mark.parametrize(
    ("parameters", "matched"),
    [
        ("s, n, hidden=3", {"s": "shape", "n": "outputs"}),
        ("shape, n, channels=3, in_features=4, num_labels=5", {"shape": "shape", "n": "outputs"}),
        (
            "sample_shape, outputs, schema, in_channels=3",
            {"sample_shape": "shape", "outputs": "outputs", "schema": "schema"},
        ),
        ("schema, s, n", {"schema": "schema", "s": "shape", "n": "outputs"}),
        ("outputs, sample_shape", {"outputs": "outputs", "sample_shape": "shape"}),
        ("in_channels, hidden, num_classes=10", {"in_channels": "channels", "num_classes": "outputs"}),
        ("in_features, out_features", {"in_features": "size", "out_features": "outputs"}),
        ("in_features, n, hidden=4", {"in_features": "size", "n": "outputs"}),
        ("x, hidden, num_classes", {"x": "shape", "num_classes": "outputs"}),
        ("input_shape, in_channels=3, num_classes=2", {"input_shape": "shape", "num_classes": "outputs"}),
        ("weights=None, num_classes=1000", {"num_classes": "outputs"}),
        ("*, weights=None, progress=True, **kwargs", {"num_classes": "outputs"}),
        ("pretrained=False, **kwargs", {"num_classes": "outputs"}),
        ("*arguments", {"*shape": "shape", "*outputs": "outputs"}),
    ],
)
def test_parameters_get_what_their_names_say(parameters: str, matched: dict[str, str]) -> None:
    told = signature_in_source(f"def make({parameters}): ...".encode(), "make")
    assert told is not None
    assert match_parameters(told) == matched
