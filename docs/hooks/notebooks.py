"""Notebooks as Markdown: cells in order, with the outputs that they were saved with."""

import base64
import json
import re
from pathlib import Path
from typing import Any

COLOR = re.compile(r"\x1b\[[0-9;]*m")
FILE_LINK = re.compile(r"<a [^>]*href=[\"'](?!https?:)[^>]*>(.*?)</a>")


def to_markdown(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its images by name."""
    parts, images = [], dict[str, bytes]()
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            parts.append(_output(output, images, notebook.stem))
    return "\n\n".join(parts), images


def _output(output: dict[str, Any], images: dict[str, bytes], stem: str) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(images)}.png"
        images[name] = base64.b64decode(data["image/png"])
        return f"![{''.join(data.get('text/plain', 'Figure'))}]({name})"
    if "text/html" in data:
        # A link to a file of the run leads nowhere here.
        html = FILE_LINK.sub(r"\1", "".join(data["text/html"]))
        return f'<div class="output">{html}</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{COLOR.sub('', text).rstrip()}\n```" if text else ""
