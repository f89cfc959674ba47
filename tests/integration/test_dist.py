"""The wheel and the source archive of `make dist`, installed where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from .test_docs import ROOT, blocks_of, write_customers


def call(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The output of a program, which must succeed."""
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both archives; the wheel is built from the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture
def environment(dist: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of a new environment with the wheel in it. It borrows the dependencies from this one, which take
    minutes to download."""
    (wheel,), home = dist.glob("*.whl"), tmp_path / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", str(home / "bin" / "python"))
    call(*pip, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "FOLDSTREAM_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def test_both_archives_have_every_module_and_no_test(dist: Path) -> None:
    folders = "storage", "pipeline", "training", "cluster"
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    expected = {str(path.relative_to(ROOT)) for path in paths if path.parent.name != "__pycache__"} | {"py.typed"}
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = {name.removeprefix("foldstream/") for name in opened.namelist()}
    with tarfile.open(archive) as opened_archive:
        sources = {name.partition("/")[2] for name in opened_archive.getnames()}
    assert expected - names == set()
    assert expected - sources == set()
    assert not [name for name in names if name.startswith(("tests", "docs", "examples"))]


@pytest.mark.long
def test_the_wheel_runs_the_quickstart_in_an_empty_folder(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    where = call("python", "-c", "import foldstream; print(foldstream.__file__)", cwd=folder, env=environment)
    assert where.startswith(str(tmp_path / "venv"))
    write_customers(folder)
    shell, python = [block for block in blocks_of(ROOT / "README.md") if not block.reason]
    call("bash", "-euo", "pipefail", "-c", shell.text, cwd=folder, env=environment)
    call("python", "-c", python.text, cwd=folder, env=environment)
    assert (folder / "predictions.csv").exists()
    assert (folder / "runs" / "first" / "report.html").exists()
