"""The executed copy of a notebook, which lies elsewhere than the notebook itself."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from pathlib import Path

from pulse_lib.files import replace_file

_PICTURE = re.compile(r"(!\[[^\]]*\])\((?!https?:|attachment:|data:)([^)\s]+\.png)\)")


def carry_pictures(copy: Path, folder: Path) -> int:
    """How many pictures of the prose were put into an executed copy as attachments: their paths
    start at `folder`, where the notebook lies, and lead nowhere from where the copy is kept. A
    picture that is not there is left as it is.
    """
    book = json.loads(copy.read_text(encoding="utf-8"))
    n = 0
    for cell in book["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        text = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        for words, where in _PICTURE.findall(text):
            file = folder / where
            if file.is_file():
                data = b64encode(file.read_bytes()).decode()
                cell.setdefault("attachments", {})[file.name] = {"image/png": data}
                text = text.replace(f"{words}({where})", f"{words}(attachment:{file.name})")
                n += 1
        cell["source"] = text
    if n:
        content = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        replace_file(copy, lambda tmp: tmp.write_text(content, encoding="utf-8"))
    return n
