"""Hooks of MkDocs: the pages and parts of pages that are not written by hand."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebooks import to_markdown
from tables import commands_page, models_tables, reference_page, settings_table

PARTS = {"commands": commands_page, "python": reference_page, "settings": settings_table, "models": models_tables}
FIGURE = re.compile(r"^!\[([^\]]*)\]\((?:\.\./)*(figures/[\w-]+\.svg)\)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the index of decisions and the pages of notebooks."""
    docs = Path(config.docs_dir)
    files.append(File.generated(config, "decisions/index.md", content=decisions_index(docs / "decisions")))
    for notebook in sorted((docs / "notebooks").glob("*.ipynb")):
        page, images = to_markdown(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **kwargs: Any) -> str:
    """Fill in `<!-- NAME: from the code -->`, and put figures into the page, so that they have the colors of its
    text."""
    for name, write in PARTS.items():
        mark = f"<!-- {name}: from the code -->"
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return FIGURE.sub(lambda found: inline(Path(config.docs_dir) / found[2], found[1]), markdown)


def inline(figure: Path, alt: str) -> str:
    """A figure as a part of the page. Its style, for readers outside the site, is left out."""
    svg = re.sub(r"<style>.*?</style>\n?|<!--.*?-->\n?", "", figure.read_text(), flags=re.DOTALL)
    svg = re.sub(r"\n\s*", "\n", svg.strip()).replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
    return f'<figure class="drawing" markdown="0">{svg}</figure>'


def decisions_index(folder: Path) -> str:
    """The page that lists all decisions by their titles."""
    lines = []
    for path in sorted(folder.glob("0*.md")):
        title = re.sub(r"^# \d+[.:] ", "", path.read_text().partition("\n")[0])
        lines.append(f"- [{path.name[:4]}]({path.name}): {title}")
    about = (
        "Each page records a decision that departs from the design or goes beyond it, its reasons, and what was tried."
    )
    return "\n".join(["# Decisions", "", about, "", *lines, ""])
