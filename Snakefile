# The study as a workflow: one rule for every kind of run, one run folder per job.
#
#   python -m pulse_lib run --profile tiny          the front: live progress, messages, a summary (this is what `make demo` does)
#   snakemake --cores 2 --config profile=tiny       the same runs, Snakemake alone (dry runs, reports)
#   snakemake --profile profiles/slurm --config profile=llava-1.5-13b      the same runs on a cluster: docs/scale.md
#
# --config keys, as the front's options: profile, methods=ga,npo|all, seeds=0,1, scenarios, trained_parts, out_dir,
# sequential=npo_klr/replay,ga, probes=ga,before|all|RUN@matched, orders=0,1,2, rebuild=library|keep. Snakemake's own settings: profiles/default.
#
# Which runs are to be done is decided by the kit (pulse_lib/study/grid.py: parameters, inputs, code cells), not by file times:
# only those runs become jobs. What Snakemake sees of a job is a small file that says that it ended, since it removes what it
# takes for outputs before a job begins; results are put in place by the job itself, whole.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from pulse_lib.errors import PulseError
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import KINDS
from pulse_lib.runs.locks import Lock, logs_folder
from pulse_lib.study import cards, grid, retries
from pulse_lib.study.jobs import ENDED, job_command, job_file, slug

try:
    options = grid.options_from_texts(**config)
    SPECS = grid.study(options)
    PROFILE = load_profile(options.profile)
    PLAN = grid.plan(PROFILE, SPECS, rebuild=options.rebuild)
except PulseError as error:
    raise WorkflowError(str(error)) from None

# From the working folder, which the front has put into the study's own: so no name that a person chose (run #1, a{x}) is in a
# path that Snakemake reads.
OUT = Path(os.path.relpath(SPECS[0].out)).as_posix().replace("{", "{{").replace("}", "}}")
# A cluster's job reads this file anew on its node. What is to be done was decided when the study began: meanwhile an input may
# be there, and the same as before, so that its reader no longer looks stale.
TODO = {slug(spec.name): spec for spec in (SPECS if workflow.remote_exec else PLAN.todo)}
# One run a card, where no scheduler gives cards away and `--resources gpu=2` does not say that two share one.
CARDS = len(cards.cards())
if "gpu" not in workflow.global_resources and not workflow.remote_exec:
    workflow.register_resource("gpu", max(1, CARDS))


def names(kind):
    """A pattern that matches the runs of a kind that are to be done, and nothing else."""
    return "|".join(re.escape(name) for name, spec in TODO.items() if spec.kind == kind) or r"(?!)"


def ended(spec):
    """The file that says that a run ended well (job_command makes it)."""
    return os.path.relpath(job_file(spec, ENDED))


def inputs(wildcards):
    """What a run waits for; what is done already is not named, so that its times decide nothing. A
    cluster's job waits for nothing: its turn has come.
    """
    folders = set() if workflow.remote_exec else set(TODO[wildcards.run].inputs)
    return [ended(spec) for spec in PLAN.todo if spec.folder in folders]


def begin():
    """Have the study to ourselves, if no front of the kit does: two at once would make runs twice."""
    global held
    if workflow.is_main_process and not os.environ.get("PULSE_FRONT"):
        front = logs_folder(SPECS[0].out) / "front.lock"
        try:
            held = Lock(front, f"another study is at work in {SPECS[0].out}", patience=3.0).__enter__()
        except PulseError as error:
            raise WorkflowError(str(error)) from None


onstart:
    begin()


rule all:
    input:
        [ended(spec) for spec in PLAN.todo],


for kind, row in KINDS.items():

    rule:
        name:
            kind
        input:
            inputs,
        output:
            f"{OUT}/.logs/{{run}}.done",
        wildcard_constraints:
            run=names(kind),
        priority:
            lambda wildcards: grid.priority(TODO[wildcards.run], PROFILE),
        threads: 1
        resources:
            gpu=1 if CARDS and row.inputs is not None else 0,  # what reads all others loads no model
            attempt=lambda wildcards, attempt: attempt,
        params:
            command=lambda wildcards, threads: retries.command(
                TODO[wildcards.run], run=job_command(TODO[wildcards.run], threads)
            ),
        shell:
            # Not in params: Snakemake keeps those from one attempt to the next.
            "attempt={resources.attempt}; {params.command}"
