"""A model's settings are read from its source, without torch, where the source tells them."""

from pathlib import Path
from typing import Any

import pytest
from foldstream.storage.errors import UsageError
from foldstream.training.zoo.factory import BUILT_IN, load_factory, settings_in_source, settings_of

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
    found = settings_in_source(f"{tmp_path}/own.py:{name}")
    assert found == expected
    if found is not None:
        assert found == settings_of(load_factory(f"{tmp_path}/own.py:{name}"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_models_tell_their_settings(name: str) -> None:
    assert settings_in_source(name) == settings_of(load_factory(name))


def test_files_that_cannot_be_read_are_left_to_who_loads_them(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def make(:\n")
    assert settings_in_source(f"{tmp_path}/own.py:make") is None
    assert settings_in_source(f"{tmp_path}/none.py:make") is None
    assert settings_in_source("package.module:make") is None
    with pytest.raises(UsageError, match="did you mean 'mlp'"):
        settings_in_source("mpl")
