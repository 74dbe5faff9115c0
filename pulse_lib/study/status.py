"""Where every run of a study stands, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pulse_lib.files import show
from pulse_lib.profile import load_profile
from pulse_lib.runs.manifest import found_runs
from pulse_lib.study import grid


def show_status(options: grid.Options, console: Console) -> None:
    """Print the study's runs, then other runs in its folder: state, when and how long, and a note:
    why it is stale, and which files of the library changed since it was made.
    """
    profile = load_profile(options.profile)
    plan = grid.plan(profile, grid.study(options))
    out = plan.specs[0].out
    table = Table(title=show(out), title_justify="left")
    for column in ("run", "state", "finished", "seconds", "note"):
        table.add_column(column, overflow="fold")
    for spec in plan.specs:
        state = plan.states[spec.folder]
        notes = [state.why] if state.state == "stale" else []
        if state.library:
            notes.append(f"made before the library changed: {', '.join(state.library)}")
        notes += state.without_effect
        made = state.manifest
        seconds = str(made.get("seconds", ""))
        note = "; ".join(notes)
        table.add_row(spec.name, state.state, str(made.get("finished", "")), seconds, note)
    for folder, why in found_runs(out, profile):
        if folder not in plan.states:
            table.add_row(folder.relative_to(out).as_posix(), "other", "", "", why)
    console.print(table)
    files = " extends ".join(show(path) for path in profile.files)
    tuned = show(profile.tuned_file) if profile.tuned_file else "none"
    console.print(f"settings: {files}; tuned: {tuned}", soft_wrap=True)
