"""PULSE reproduction kit: does a multimodal model forget a person, and what is left of it
afterwards? (arXiv 2507.01271)"""

import sys

__version__ = "0.1.0"

if (
    sys.platform == "win32"
):  # before anything that Windows does not have (fcntl, resource) is asked for
    raise SystemExit(
        "error: this kit needs Linux or macOS: on Windows run it in WSL (https://aka.ms/wsl)"
    )
