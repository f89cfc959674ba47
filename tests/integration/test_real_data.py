"""Real tables, with no option but the label, are predicted as well as by a linear model."""

from pathlib import Path

import foldstream as fs
import pandas as pd
import pytest

from ..real_data import SMALL, linear_score, score_of
from ..unit.test_command_line import output_of


@pytest.mark.parametrize("name", SMALL)
def test_three_commands_do_as_well_as_a_linear_model(name: str, tmp_path: Path) -> None:
    data = SMALL[name]
    source, dataset, run, out = (tmp_path / file for file in (data.file, "data.zarr", "run", "predictions.csv"))
    data.write(tmp_path, source)
    output_of("convert", *data.conversion, str(source), str(dataset))
    output_of("train", str(dataset), str(run))
    output_of("predict", str(run), str(source), str(out))
    opened = fs.open(str(dataset))
    assert len(pd.read_csv(out)) == len(opened)
    assert score_of(run, opened) >= linear_score(opened, run) - 0.02
