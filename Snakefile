# The study as a workflow: one rule per notebook, one run folder per job.
#
#   python -m pulse_lib run --profile tiny          the front: live progress, messages, a summary (this is what `make demo` does)
#   snakemake --cores 2 --config profile=tiny       the same runs, Snakemake alone (clusters, dry runs, reports)
#
# --config keys, as the front's options: profile, methods=ga,npo|all, seeds=0,1, scenarios, trained_parts, out_dir, sequential=npo_klr/replay,ga.
#
# Which runs are to be done is decided by the kit (pulse_lib.study.grid.plan: parameters, inputs, code cells), not by file times:
# only those runs become jobs, and what is done is a plain source file here.
import sys

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from pulse_lib.study import grid
from pulse_lib.errors import PulseError
from pulse_lib.study.jobs import job_command, stale_marker
from pulse_lib.profile import load_profile

try:
    options = grid.options_from_text(**config)
    SPECS = grid.study(**options)
    PLAN = grid.plan(load_profile(options["profile"]), SPECS)
except PulseError as error:
    raise WorkflowError(str(error)) from None

OUT = SPECS[0].out.as_posix()
TODO = {spec.name: spec for spec in PLAN.todo}


def names(kind):
    """A pattern that matches the runs of a kind that are to be done, and nothing else."""
    import re

    found = [re.escape(name.split("/", 1)[1]) for name in TODO if name.startswith(kind + "/")]
    return "|".join(found) or r"(?!)"


def needs(name):
    """What a run waits for: the manifests of its inputs. A stale run gets a fresh marker as well, which is newer than its results."""
    spec = TODO.get(name)
    if spec is None:
        return []
    marker = [stale_marker(spec)] if PLAN.states[spec.folder].state == "stale" else []
    return [str(folder / "manifest.json") for folder in spec.inputs] + marker


def command(name, threads):
    spec = TODO[name]
    return job_command(spec, threads)


rule all:
    input:
        [str(spec.folder / "manifest.json") for spec in PLAN.todo],


rule build_datasets:
    input:
        lambda w: needs(f"data/{w.run}"),
    output:
        f"{OUT}/data/{{run}}/manifest.json",
        f"{OUT}/data/{{run}}/notebook.ipynb",
    wildcard_constraints:
        run=names("data"),
    priority: 30
    threads: 1
    params:
        command=lambda w, threads: command(f"data/{w.run}", threads),
    shell:
        "{params.command}"


rule finetune:
    input:
        lambda w: needs(f"target/{w.run}"),
    output:
        f"{OUT}/target/{{run}}/manifest.json",
        f"{OUT}/target/{{run}}/notebook.ipynb",
    wildcard_constraints:
        run=names("target"),
    priority: 20
    threads: 1
    params:
        command=lambda w, threads: command(f"target/{w.run}", threads),
    shell:
        "{params.command}"


rule unlearn_single_shot:
    input:
        lambda w: needs(f"single_shot/{w.run}"),
    output:
        f"{OUT}/single_shot/{{run}}/manifest.json",
        f"{OUT}/single_shot/{{run}}/notebook.ipynb",
    wildcard_constraints:
        run=names("single_shot"),
    priority: 10  # on the embedded model, asked at every step, the longest runs: first
    threads: 1
    params:
        command=lambda w, threads: command(f"single_shot/{w.run}", threads),
    shell:
        "{params.command}"


rule unlearn_sequential:
    input:
        lambda w: needs(f"sequential/{w.run}"),
    output:
        f"{OUT}/sequential/{{run}}/manifest.json",
        f"{OUT}/sequential/{{run}}/notebook.ipynb",
    wildcard_constraints:
        run=names("sequential"),
    threads: 1
    params:
        command=lambda w, threads: command(f"sequential/{w.run}", threads),
    shell:
        "{params.command}"


rule analyze:
    input:
        needs("analysis"),
    output:
        f"{OUT}/analysis/manifest.json",
        f"{OUT}/analysis/notebook.ipynb",
    threads: 1
    params:
        command=lambda w, threads: command("analysis", threads),
    shell:
        "{params.command}"
