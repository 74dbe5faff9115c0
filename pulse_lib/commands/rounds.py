"""The rounds of a sequential run, kept in its folder as round-1, round-2 ...: files first, then the
round's manifest, so that half a round is no round.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pulse_lib.commands.checkpoints import CheckpointFolder
from pulse_lib.evaluate.rows import read_rows, write_rows
from pulse_lib.files import write_csv
from pulse_lib.model.adapters import ADAPTER_FILES, load_adapter, save_adapter
from pulse_lib.runs.manifest import Started, finish_round, finished_round
from pulse_lib.unlearn.sequential import Round
from pulse_lib.unlearn.task import Target

ROUND_FILES = (
    "rows.parquet",
    "path.csv",
    "log.csv",
    *(f"adapter/{file}" for file in ADAPTER_FILES),
)


@dataclass(frozen=True)
class RoundFolders:
    """A RoundStore: rounds of a started run, on this target."""

    started: Started
    target: Target

    def folder(self, number: int) -> Path:
        """Where a round lies."""
        return self.started.folder / f"round-{number}"

    def load(self, number: int, adapter: str) -> Round | None:
        """A round that is whole and belongs to this very run, its adapter put into the model."""
        manifest, folder = finished_round(self.started, number), self.folder(number)
        if manifest is None:
            return None
        load_adapter(self.target.model, folder / "adapter", name=adapter)
        return Round(
            number=number,
            request=manifest["request"],
            adapter=adapter,
            final_step=manifest["final_step"],
            chosen_step=manifest["chosen_step"],
            stop_reason=manifest["stop_reason"],
            n_trainable=manifest["n_trainable"],
            seconds_train=manifest["seconds_train"],
            rows=read_rows(folder / "rows.parquet"),
            trajectory=pd.read_csv(folder / "path.csv"),
            log=pd.read_csv(folder / "log.csv"),
            resumed=True,
        )

    def save(self, done: Round, *, below: int) -> None:
        """Write a round; what lay there, and later rounds, which went on from it, are removed."""
        for there in self.started.folder.glob("round-*"):
            if int(there.name.removeprefix("round-")) >= done.number:
                shutil.rmtree(there)
        folder = self.folder(done.number)
        parent = self.folder(below) / "adapter" if below else self.target.folder
        save_adapter(self.target.model, done.adapter, folder=folder / "adapter", parent=parent)
        write_rows(folder / "rows.parquet", done.rows)
        write_csv(folder / "path.csv", done.trajectory)
        write_csv(folder / "log.csv", done.log)
        known = {key: value for key, value in done.result().items() if key != "round"}
        finish_round(self.started, done.number, files=ROUND_FILES, extra=known)

    def checkpoints(self, number: int) -> CheckpointFolder:
        """What keeps the training of a round that is not finished."""
        return CheckpointFolder(self.started, f"round-{number}")
