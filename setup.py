"""What pyproject.toml cannot say: a wheel carries the files beside the package that a study needs,
in pulse_lib/kit/ (pulse_lib/files.py looks there). In a clone they lie where they are.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
KIT = ("Snakefile", "notebooks/*.ipynb", "params/**/*.yaml", "profiles/**/*.yaml")


class BuildWithKit(build_py):
    """The package, and its kit/ folder with it."""

    def run(self):
        """Build; an editable install uses the clone itself."""
        super().run()
        if self.editable_mode:
            return
        for pattern in KIT:
            for path in ROOT.glob(pattern):
                copy = Path(self.build_lib) / "pulse_lib" / "kit" / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


setup(cmdclass={"build_py": BuildWithKit})
