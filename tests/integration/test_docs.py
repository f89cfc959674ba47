"""The code of the documentation runs as it stands there: the blocks of a page in order, in one folder.

In the source of a page, `<!-- not run: REASON -->` before a block means that its commands are only parsed.
`<!-- before: COMMANDS -->` and `<!-- file NAME: TEXT -->` prepare what a reader of the page already has. A block of
Python with a title is a file. `foldstream serve` serves until the next one, or to the end of the page.
"""

import random
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from foldstream.cli import app
from typer.exceptions import TyperException
from typer.main import get_command

from ..object_store import object_server
from ..programs import find_program, run
from ..unit.test_serve import server_of

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(path for name in ("quickstart", "tutorials", "guides") for path in (ROOT / "docs" / name).glob("*.md")),
        ROOT / "docs" / "reference" / "settings.md",
    ]
)
BLOCK = re.compile(
    r'(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$'
    r"|<!-- before:(?P<before>[^>]+)-->"
    r"|<!-- file (?P<file>\S+):(?P<content>.*?)-->",
    re.DOTALL | re.MULTILINE,
)
ELSEWHERE = "datasets", "clusters"
"""Pages whose commands need downloads or a cluster, and are run by tests of their own; here they are only parsed."""
IMAGES_OF_A_CLASS = 8
TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class Block:
    """A block of code: in `sh`, `python` or what is not run."""

    language: str
    text: str
    title: str = ""
    reason: str = ""


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order. Preparations count as commands."""
    found = [one.groupdict() for one in BLOCK.finditer(page.read_text())]
    return [*map(_block_of, found)]


def _block_of(found: dict[str, Any]) -> Block:
    if found["before"]:
        return Block("sh", found["before"].strip() + "\n")
    if found["file"]:
        return Block("text", found["content"].strip() + "\n", found["file"])
    return Block(found["language"], found["text"], found["title"] or "", found["reason"] or "")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each line of a block of shell commands, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


class Reader:
    """Somebody who runs the commands of a page; the `service` that they start ends with it."""

    def __init__(self, service: ExitStack) -> None:
        self.service, self.port = service, ""

    def call(self, words: list[str]) -> None:
        """Run a command; one of Foldstream in this process, where the packages that it needs are loaded."""
        match words:
            case ["foldstream", "serve", *rest]:
                self.serve(rest)
            case ["foldstream", *rest]:
                assert get_command(app).main(rest, prog_name="foldstream", standalone_mode=False) in (None, 0)
            case ["curl", *_]:
                self.ask(words)
            case ["python", *rest]:
                run(sys.executable, *rest)
            case _:
                raise AssertionError(f"mark the block of {shlex.join(words)} as not run, and say why")

    def serve(self, words: list[str]) -> None:
        """Start a service on a free port in place of the one before."""
        self.service.close()
        folder, *options = words[: words.index("--port")] if "--port" in words else words
        if "--host" in options:
            self.service.enter_context(pytest.MonkeyPatch.context()).setenv("FOLDSTREAM_TOKEN", TOKEN)
        self.port = self.service.enter_context(server_of(Path(folder), *options)).rpartition(":")[2]

    def ask(self, words: list[str]) -> None:
        """Send a request to the service."""
        for theirs, own in {":8000": f":{self.port}", "//HOST": "//127.0.0.1", "TOKEN": TOKEN}.items():
            words = [word.replace(theirs, own) for word in words]
        run(find_program("curl"), *words[1:], "--silent", "--show-error", "--fail")


def parse(words: list[str]) -> None:
    """Check a command's name, options and values without running it. Arguments may be missing."""
    command: Any = get_command(app)
    rest = [word for word in words[1:] if word not in ("--json", "--quiet", "--version")]
    while rest and (inner := getattr(command, "commands", None)):
        assert rest[0] in inner, f"{shlex.join(words)}: there is no command {rest[0]}"
        command = inner[rest.pop(0)]
    if not hasattr(command, "commands"):
        try:
            command.make_context("foldstream", rest)
        except TyperException as error:
            if type(error).__name__ != "MissingParameter":
                raise AssertionError(f"{shlex.join(words)}: {error}") from error


def run_script(text: str, folder: Path) -> None:
    """Run Python as a script of its own, as readers do."""
    (folder / "page.py").write_text(text)
    done = subprocess.run([sys.executable, "page.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def run_blocks(blocks: list[Block], folder: Path, reader: Reader) -> None:
    """Run blocks in order; Python blocks that follow each other are one script."""
    script = ""
    for block in [*blocks, Block("sh", "")]:
        if block.reason or (block.language not in ("sh", "python") and not block.title):
            if block.language == "sh":
                for words in commands_in(block.text):
                    if words[0] == "foldstream":
                        parse(words)
        elif block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            script += block.text + "\n"
        else:
            if script:
                run_script(script, folder)
            script = ""
            for words in commands_in(block.text):
                reader.call(words)


def write_customers(folder: Path) -> None:
    """A table of customers who left or not, with a column of text, and numbers of which some are missing; and others,
    of whom that is not known."""
    draw = random.Random(0)
    for name, count in (("train", 400), ("test", 50)):
        lines = ["customer,plan,calls,spent" + ",left" * (name == "train")]
        for number in range(count):
            calls, plan = draw.randrange(10), draw.choice(["basic", "family", ""])
            spent = "" if draw.random() < 0.1 else f"{draw.random() * 100:.2f}"
            left = "," + ("yes" if calls > 5 else "no") if name == "train" else ""
            lines.append(f"{'old' if left else 'new'}-{number},{plan},{calls},{spent}{left}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def write_visits(folder: Path) -> None:
    """A table of visits of patients, some of whom were sick."""
    draw = random.Random(1)
    lines = ["patient,day,fever,sick"]
    for number in range(300):
        fever = 36 + 4 * draw.random()
        lines.append(f"P{number % 60},2025-{1 + number // 28 % 12:02}-{1 + number % 28:02},{fever:.1f},{fever > 38}")
    (folder / "visits.csv").write_text("\n".join(lines) + "\n")


def write_scans(folder: Path) -> None:
    """Images of a folder with a table of patients, and a table of those in the folder `new`."""
    draw, sites = random.Random(2), ["north", "south"]
    (folder / "scans").mkdir()
    patients, new = ["image,age,site,sick"], ["image,age,site"]
    for number, image in enumerate(sorted((folder / "photos").rglob("*.jpg"))):
        shutil.copy(image, folder / "scans" / f"{number}.jpg")
        sick = "yes" if number % 2 else "no"
        patients.append(f"{number}.jpg,{draw.randrange(20, 90)},{draw.choice(sites)},{sick}")
    for image in sorted((folder / "new").iterdir()):
        new.append(f"{image.name},{draw.randrange(20, 90)},{draw.choice(sites)}")
    (folder / "patients.csv").write_text("\n".join(patients) + "\n")
    (folder / "new.csv").write_text("\n".join(new) + "\n")


def write_images(folder: Path) -> None:
    """Some textures in folders of classes, and others without a class."""
    with zipfile.ZipFile(ROOT / "examples" / "textures" / "train.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".jpg") and int(Path(name).stem) < IMAGES_OF_A_CLASS:
                archive.extract(name, folder / "photos")
    with zipfile.ZipFile(ROOT / "examples" / "textures" / "test.zip") as archive:
        archive.extractall(folder / "new")


@pytest.mark.long
@pytest.mark.usefixtures("usual_blocks")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    if page.stem in ELSEWHERE:
        blocks = [replace(block, reason="run elsewhere") for block in blocks]
    if not any(block.language in ("sh", "python") for block in blocks):
        pytest.skip("the page has no code")
    write_customers(tmp_path)
    write_visits(tmp_path)
    write_images(tmp_path)
    write_scans(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDSTREAM_HOME", str(tmp_path / "home"))
    with ExitStack() as service, bucket_of_tables(tmp_path) if page.stem == "object-stores" else nullcontext():
        run_blocks(blocks, tmp_path, Reader(service))


@contextmanager
def bucket_of_tables(folder: Path) -> Iterator[None]:
    """A bucket with the tables of customers."""
    with object_server() as server:
        obstore.put(server.store, "csv/train.csv", (folder / "train.csv").read_bytes())
        obstore.put(server.store, "new.csv", (folder / "test.csv").read_bytes())
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_in_the_text_of_a_page_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for command in re.findall(r"`(foldstream [^`]+)`", text):
        if not re.search(r"…|COMMAND|\bX\b", command):
            parse(shlex.split(command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_its_language(page: Path) -> None:
    languages = {block.language for block in blocks_of(page)}
    assert languages <= {"sh", "python", "text", "toml"}
