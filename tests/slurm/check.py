"""The smoke study on a real SLURM: `make test-slurm`. One of its jobs is cancelled and its node lost with others, a second
study is started beside it, and it ends with the same rows as on this machine alone.

Not part of `make test`: it installs packages of the distribution, needs root, and takes some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from cluster import CARDS, PATH, Missing, cluster, install, lose_the_node, said

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = "snakemake-executor-plugin-slurm>=2.8,<3"
MINUTES = 30.0
STUDY = {"profile": "smoke", "methods": "ga"}
# Wherever the profile is for a real cluster: no accounting here, an impatient test, a small machine
HERE = """
--slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 --latency-wait 5 --slurm-no-account
--default-resources runtime=30 mem_mb=2000
""".split()


def python_with_plugin(folder: Path) -> str:
    """A Python that has the executor plugin and all that this one has, which stays as it is."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages" / "below.pth"
    site.write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", PLUGIN], capture_output=True, text=True
    )
    if done.returncode:
        raise Missing(f"pip install {PLUGIN}: {done.stderr.strip()[-300:]}")
    return str(python)


def local(python: str, out: Path, **more: str) -> subprocess.CompletedProcess:
    """The front of the kit, on this machine alone."""
    words = [python, "-m", "pulse_lib", "run", "--out-dir", str(out)]
    words += [word for key, value in STUDY.items() for word in (f"--{key}", value)]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=ENV | more)


def command(python: str, out: Path) -> list[str]:
    """The one command of docs/scale.md."""
    words = [python, "-m", "snakemake", "--profile", "profiles/slurm", *HERE]
    config = [f"{key}={value}" for key, value in (STUDY | {"out_dir": str(out)}).items()]
    return [*words, "--config", *config]


ENV = os.environ | {"PATH": PATH, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
for name in ("PULSE_FRONT", "SNAKEMAKE_PROFILE"):
    ENV.pop(name, None)


class Watch:
    """What is seen of a study while it runs, and what is done to it."""

    def __init__(self, out: Path):
        self.out = out
        self.killed: list[str] = []  # runs, by the name of their files in .logs
        self.cards: dict[str, set[str]] = {}  # run -> cards that its kernels were shown
        self.together = 0  # most runs of different cards seen at once

    def look(self) -> None:
        shown = {}
        for process in psutil.process_iter(["cmdline"]):
            if "ipykernel_launcher" not in (process.info["cmdline"] or []):
                continue
            try:
                env = process.environ()
            except psutil.Error:
                continue
            found = re.search(
                rf"{re.escape(str(self.out))}/\.logs/([^\"]*)\.lock", env.get("PULSE_RUN_LOCK", "")
            )
            if found:
                shown[found[1]] = env.get("CUDA_VISIBLE_DEVICES", "(none)")
        for run, card in shown.items():
            self.cards.setdefault(run, set()).add(card)
        self.together = max(self.together, len(set(shown.values())))
        if len(self.killed) < 2:
            self._kill(shown)

    def _kill(self, shown: dict[str, str]) -> None:
        """End a job whose notebook is at work: the first by scancel, the second with its node, and
        whatever else was at work there.
        """
        kinds = ("single_shot", "sequential")
        for line in said("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines():
            job, _, comment = line.partition(" ")
            for run in shown:
                kind = kinds[len(self.killed)]
                if not (run.startswith(kind) and run in comment and self._at_work(run)):
                    continue
                if not self.killed:
                    subprocess.run(["scancel", job], env=ENV, check=True)
                else:
                    lose_the_node()
                self.killed.append(run)
                print(f"killed {run} (job {job})", flush=True)
                return

    def _at_work(self, run: str) -> bool:
        try:
            return (self.out / ".logs" / f"{run}.progress").read_text() not in ("", "starting")
        except OSError:
            return False


def on_slurm(python: str, out: Path, *, log: Path) -> Watch:
    """The study on the cluster, watched; a second one is started beside it and refused."""
    watch, refused, until = Watch(out), [], time.monotonic() + MINUTES * 60
    with open(log, "w") as file:
        process = subprocess.Popen(
            command(python, out), cwd=REPOSITORY, env=ENV, stdout=file, stderr=file
        )
        try:
            while process.poll() is None:
                assert time.monotonic() < until, f"not done after {MINUTES} minutes: {log}"
                watch.look()
                if watch.killed and not refused:
                    refused = [
                        subprocess.run(
                            command(python, out),
                            cwd=REPOSITORY,
                            env=ENV,
                            capture_output=True,
                            text=True,
                        ),
                        local(python, out),
                    ]
                time.sleep(0.3)
        finally:
            process.terminate()
            process.wait()
    assert process.returncode == 0, f"snakemake ended with {process.returncode}: {log}"
    for second in refused:
        words = second.stdout + second.stderr
        assert second.returncode and "another study is at work" in words, words[-2000:]
    assert len(refused) == 2
    return watch


def rows(out: Path) -> dict[str, pd.DataFrame]:
    """All rows of a study, by file."""
    return {p.relative_to(out).as_posix(): pd.read_parquet(p) for p in out.rglob("rows.parquet")}


def check(folder: Path) -> None:
    """The whole test, in a folder of its own."""
    python = python_with_plugin(folder / "venv")
    done = local(python, folder / "local")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print("the study on this machine alone is done", flush=True)
    with cluster(folder / "slurm"):
        out, log = folder / "on-slurm", folder / "snakemake.log"
        watch = on_slurm(python, out, log=log)
        said_by_snakemake = log.read_text()
        assert len(watch.killed) == 2, f"killed: {watch.killed}"
        for run in watch.killed:
            assert re.search(r"Trying to restart job \d+", said_by_snakemake), log
            assert (out / run.replace("__", "/") / "manifest.json").is_file(), run
        one_each = {card for cards in watch.cards.values() for card in cards}
        with_model = {k: v for k, v in watch.cards.items() if k != "analysis"}
        assert one_each - {"(none)"} == {str(i) for i in range(CARDS)}, watch.cards
        assert all("," not in card and card != "(none)" for v in with_model.values() for card in v)
        assert watch.together == CARDS, "no two runs were side by side"

        mine, theirs = rows(folder / "local"), rows(out)
        assert mine and mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
        for name, frame in mine.items():
            pd.testing.assert_frame_equal(frame, theirs[name], check_exact=True, obj=name)
        print(
            f"the same rows in {len(mine)} runs, {sum(map(len, mine.values()))} in all", flush=True
        )

        # A rerun does only what changed
        lost = next(out.glob("single_shot/pretrained/ga-*"))
        (lost / "rows.parquet").unlink()
        again = subprocess.run(
            command(python, out), cwd=REPOSITORY, env=ENV, capture_output=True, text=True
        )
        words = again.stdout + again.stderr
        assert again.returncode == 0, words[-3000:]
        done_again = set(re.findall(r"^\s*(?:localrule|rule) (\w+):", words, re.MULTILINE))
        assert done_again - {"all"} == {"single_shot", "analysis"}, done_again
        assert "3 of 3 steps" in words, words[-3000:]
        pd.testing.assert_frame_equal(
            rows(out)[f"{lost.relative_to(out)}/rows.parquet"],
            mine[f"{lost.relative_to(out)}/rows.parquet"],
        )
        print("a rerun did the run that was lost and the analysis, nothing else", flush=True)


def main() -> None:
    """Run the check, or say loudly why it cannot be run here."""
    folder, begun = Path(tempfile.mkdtemp(prefix="pulse-slurm-")), time.monotonic()
    try:
        install()
        check(folder)
    except Missing as why:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"\n*** SKIPPED: no SLURM can be had here, nothing was tested: {why} ***\n")
        return
    except BaseException:
        print(f"\nFAILED. Daemons have ended; studies and logs: {folder}\n", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    print(f"SLURM: passed in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
