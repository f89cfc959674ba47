"""Each command that README and tutorials show is run as it stands there."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("foldstream ", ".venv/bin/foldstream ")  # 'make demo' is the last command of the tutorial on digits


def blocks(path: Path) -> list[str]:
    """The commands of a page, block by block, in a shell's words."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in ("", "bash") and block.startswith(COMMANDS)]


def run_blocks(commands: list[str], folder: Path) -> None:
    """Run blocks in a folder that looks like the project's."""
    for name in ("examples", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FOLDSTREAM_HOME": str(folder / "home"), "COLUMNS": "200"}
    for block in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def write_customers(folder: Path) -> None:
    """A table of customers who left or not, with a name, a column of text, and numbers of which some are missing; and
    others, of whom that is not known."""
    draw = random.Random(0)
    for name, count in (("train", 400), ("test", 50)):
        lines = ["customer,plan,calls,spent" + ",left" * (name == "train")]
        for number in range(count):
            calls, plan = draw.randrange(10), draw.choice(["basic", "family", ""])
            spent = "" if draw.random() < 0.1 else f"{draw.random() * 100:.2f}"
            left = "," + ("yes" if calls > 5 else "no") if name == "train" else ""
            lines.append(f"{'old' if left else 'new'}-{number},{plan},{calls},{spent}{left}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.long
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_the_tutorial_is_run(page: Path, tmp_path: Path) -> None:
    run_blocks(blocks(page), tmp_path)
    predictions = list(tmp_path.glob("build/*/*.csv"))
    assert predictions
    assert all(len(path.read_text().splitlines()) > 20 for path in predictions)


@pytest.mark.long
def test_the_commands_of_the_readme_are_run(tmp_path: Path) -> None:
    write_customers(tmp_path)
    run_blocks(blocks(ROOT / "README.md"), tmp_path)
    header, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == "customer,left"
    assert [row.split(",")[0] for row in rows] == [f"new-{number}" for number in range(50)]
    assert {row.split(",")[1] for row in rows} == {"no", "yes"}
    assert (tmp_path / "build" / "demo" / "submission.csv").exists()
