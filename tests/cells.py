"""Notebooks without a kernel: their code cells, one after another, in this process.

python tests/cells.py '{"profile": ..., "out_dir": ...}' 02_finetune 03_unlearn_single_shot
"""

import json
import sys

from pulse_lib.files import REPOSITORY


def run_cells(notebook, given):
    """The names that a notebook's code cells leave, those of its parameters replaced that are `given`."""
    book = json.loads((REPOSITORY / "notebooks" / f"{notebook}.ipynb").read_text())
    names = {"__name__": "__main__"}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook} {cell['id']}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= {key: value for key, value in given.items() if key in names}
    return names


if __name__ == "__main__":
    for name in sys.argv[2:]:
        run_cells(name, json.loads(sys.argv[1]))
