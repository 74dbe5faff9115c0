"""What a run is, as notebooks use it: begin one, finish one, require another's results."""

from pulse_lib.runs.kinds import run_folder, spec_of
from pulse_lib.runs.manifest import Started, finish, require, start, status

__all__ = ["Started", "finish", "require", "run_folder", "spec_of", "start", "status"]
