"""The systems that Foldstream runs on."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["foldstream", "foldstream.cli"])
@pytest.mark.parametrize(("platform", "runs"), [("win32", False), ("cygwin", False), ("linux", True)])
def test_other_systems_are_refused_in_one_sentence(module: str, platform: str, runs: bool) -> None:
    program = f"import sys; sys.platform = {platform!r}; import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == runs
    last = done.stderr.strip().rpartition("\n")[2]
    assert runs or last.startswith(f"ImportError: Foldstream runs on Linux and macOS, not on {platform}")


def test_the_package_and_the_readme_name_the_systems() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    systems = {name.removeprefix("Operating System :: ") for name in classifiers if name.startswith("Operating")}
    assert systems == {"POSIX :: Linux", "MacOS"}
    assert "Linux or macOS" in (ROOT / "README.md").read_text()
