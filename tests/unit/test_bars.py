"""Progress of calls from Python: bars in a terminal or a notebook, warnings as log records, silence on request."""

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import foldstream as fs
import pytest
from foldstream.cluster.bars import NotebookBars, showing_progress
from foldstream.cluster.listener import Listener

CONVERT = "import foldstream as fs; fs.convert('data.csv', 'data.zarr', label='c', overwrite=True, progress={})"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("a,b,c\n" + "1,2,x\n3,4,y\n" * 50)
    return tmp_path


@pytest.mark.parametrize("progress", [True, False])
def test_a_terminal_shows_bars_unless_they_are_turned_off(progress: bool, folder: Path) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-c", CONVERT.format(progress)]
    try:
        with subprocess.Popen(
            command, cwd=folder, stderr=inner, stdout=inner, env={**os.environ, "TERM": "xterm"}
        ) as one:
            os.close(inner)
            shown = b""
            while True:
                try:
                    part = os.read(outer, 1 << 16)
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                shown += part
        assert one.returncode == 0, shown
    finally:
        os.close(outer)
    assert (b"convert" in shown) is progress
    assert (b"100" in shown) is progress


def test_without_a_terminal_nothing_is_shown(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CONVERT.format(True)], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_notebook_gets_a_table_of_bars() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.kernel = None  # what a notebook's shell has
    try:
        with showing_progress(None) as listener:
            assert isinstance(listener.progress, NotebookBars)
        bars = NotebookBars()
        bars._stages["fold 0"] = 3, 4, "loss <0.5"
        assert "<progress value='3' max='4'></progress>" in bars.html()
        assert "loss &lt;0.5" in bars.html()
    finally:
        InteractiveShell.clear_instance()


def test_a_listener_takes_the_place_of_the_bars(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    stages = list[str]()
    heard = Listener(progress=lambda stage, done, total, remark="": stages.append(stage))
    fs.convert(folder / "data.csv", folder / "data.zarr", label="c", listener=heard)
    assert "convert" in stages
    with showing_progress(None) as listener:
        listener.announce("warning", "fold 2 has no rows")
        listener.announce("report", "report.html")
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
        (logging.WARNING, "warning: fold 2 has no rows")
    ]
