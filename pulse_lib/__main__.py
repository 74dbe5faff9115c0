"""The command line: python -m pulse_lib --help."""

import errno
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pulse_lib import __version__, machine
from pulse_lib.errors import PulseError
from pulse_lib.files import INSTALLED, KIT, from_here, write_error

if TYPE_CHECKING:
    import pandas as pd

    from pulse_lib.study.grid import Options

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)
# What a study is to hold; each of these becomes an option of the commands below `takes_options`.
OPTIONS = {
    "profile": ("tiny", "A name in params/, or a .yaml file."),
    "methods": ("ga,ga_klr,npo", "Method ids parted by commas, or all."),
    "seeds": ("0", "Seeds parted by commas."),
    "scenarios": ("", "finetuned, pretrained; both if empty."),
    "trained_parts": ("", "Trained parts; if empty, the paper's grid."),
    "out_dir": ("", "The study's folder; outputs/<profile> if empty."),
    "sequential": ("", "Sequential runs: method or method/strategy, parted by commas."),
    "orders": ("0", "Orders of requests in a row, parted by commas: 0 as numbered, others drawn."),
    "probes": (
        "",
        "Whose runs are probed (06): methods, before, all, or a run@state; none if empty.",
    ),
}


MOST_JOBS = 512
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # wherever it happens, no fault of the kit
MOST = 2**31 - 1  # of counts and seeds: more is a slip of the finger


def in_range(option: str, value: float, *, least: float, most: float = MOST) -> None:
    """Raises PulseError naming the option, its value and its range, if it is not in it."""
    if math.isnan(value) or not least <= value <= most:
        at_most = f", at most {most}" if most != MOST else ""
        raise PulseError(f"{option} {value} must be {least} or more{at_most}")


def takes_options(command: Callable) -> Callable:
    """The command, with the study's options on the command line and one Options object in its
    first parameter.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[str, typer.Option(help=words)],
        )
        for name, (default, words) in OPTIONS.items()
    ]

    @functools.wraps(command)
    def with_options(**given) -> None:
        from pulse_lib.study.grid import options_from_texts

        texts = {name: given.pop(name) for name in OPTIONS}
        if "rebuild" in given:
            texts["rebuild"] = given.pop("rebuild")
        command(options_from_texts(**texts), **given)

    every = [*options, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    del with_options.__wrapped__  # typer reads the signature from here
    vars(with_options)["__signature__"] = inspect.Signature(every)
    with_options.__annotations__ = {p.name: p.annotation for p in every}
    return with_options


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pulse {__version__} ({KIT})")
        raise typer.Exit


@app.callback()
def kit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PULSE: does a multimodal model forget a person, and what is left of it afterwards?"""


@app.command()
@takes_options
def run(
    options: "Options",
    jobs: Annotated[int, typer.Option(help="Runs at a time; 0: two, or one on a single core.")] = 0,
    *,
    rebuild: Annotated[
        str,
        typer.Option(
            help="Runs that an earlier state of the library made: library (make them anew), keep, "
            "or ask."
        ),
    ] = "ask",
) -> None:
    """Bring a study up to date: every notebook for every method, scenario and seed; what is done is
    not done again.
    """
    from pulse_lib.study.batch import run_study

    in_range("--jobs", jobs, least=0, most=MOST_JOBS)
    n_jobs, console = jobs or min(2, machine.cores()), _console()
    ask = typer.confirm if sys.stdin.isatty() and console.is_terminal else None
    try:
        done = run_study(options, n_jobs, console=console, ask=ask)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is left.", file=sys.stderr)
        raise typer.Exit(130) from None
    if not done:
        raise typer.Exit(1)


@app.command()
@takes_options
def status(options: "Options") -> None:
    """Where every run of a study stands: done, stale (and why) or missing; files of the library
    that changed since are named.
    """
    from pulse_lib.study.status import show_status

    show_status(options, _console())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def notebook(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Number or name, e.g. 03 or 03_unlearn_single_shot.")],
    *,
    threads: Annotated[
        int, typer.Option(help="Threads of the kernel; 0: as many as it likes.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Output to log.txt only.")] = False,
) -> None:
    """Run one notebook in batch and keep the executed copy beside its results.

    Parameters are given as -p key value, as often as needed:
    python -m pulse_lib notebook 03 -p method npo -p seed 1
    """
    from pulse_lib.study.cards import free_card
    from pulse_lib.study.jobs import in_a_study
    from pulse_lib.study.notebook import run_from_words

    in_range("--threads", threads, least=0, most=MOST_JOBS)
    with in_a_study(), free_card():
        manifest = run_from_words(name, context.args, threads=threads or None, echo=not quiet)
    if not quiet:
        _console().print(f"{manifest['notebook']} done in {manifest['seconds']:.0f} s")


@app.command()
def methods() -> None:
    """Print the table of unlearning methods."""
    from pulse_lib.methods import METHODS, PLACEBO, PLACEBOS, VARIANTS

    table = Table()
    columns = ("id", "needs", "loss", "source", "coefficients")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for method in [*METHODS.values(), *VARIANTS.values()]:
        if method.id in PLACEBOS:
            continue
        row = method.describe()
        table.add_row(*(row[column] for column in columns))
    _console().print(table)
    print(
        "The MUSE and MLLMU-Bench rows are for comparison only: `--methods all` leaves them out, and the\n"
        f"placebos: an id followed by {PLACEBO} (ga{PLACEBO}) is the same steps on people nobody has met."
    )


@app.command()
def search(
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    methods: Annotated[str, typer.Option(help=OPTIONS["methods"][1])] = "all",
    *,
    scenarios: Annotated[str, typer.Option(help=OPTIONS["scenarios"][1])] = "",
    trials: Annotated[int, typer.Option(help="Trials a method and scenario.")] = 10,
    seed: Annotated[int, typer.Option(help="Of data, target and adapters; never reported.")] = 1000,
    out_dir: Annotated[
        str, typer.Option(help="The search's folder; outputs/<profile>-search if empty.")
    ] = "",
    jobs: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
    store: Annotated[
        bool, typer.Option("--store", help="Write the best into the profile's tuned file.")
    ] = False,
    sequential: Annotated[str, typer.Option(help=OPTIONS["sequential"][1])] = "",
    goal: Annotated[
        str, typer.Option(help="matched, or end_point: where the paper's run ends, once for all.")
    ] = "matched",
) -> None:
    """Search learning rate and coefficients with the same budget for every method; goes on where it
    was stopped.
    """
    from pulse_lib.commands import search as searching
    from pulse_lib.commands.draws import GOALS
    from pulse_lib.runs.kinds import one_of
    from pulse_lib.study.grid import options_from_texts

    in_range("--trials", trials, least=1)
    in_range("--jobs", jobs, least=1, most=MOST_JOBS)
    in_range("--seed", seed, least=0)
    options = options_from_texts(
        profile=profile,
        methods=methods,
        scenarios=scenarios,
        out_dir=out_dir,
        sequential=sequential,
    )
    aim = one_of("goal", goal, choices=GOALS)
    table = searching.search(
        options, trials, seed=seed, jobs=jobs, pairs=bool(sequential), goal=aim
    )
    if store:
        print(f"stored in {searching.store(options.profile, table, goal=aim)}")


@app.command()
def ledger(
    folder: Annotated[
        str, typer.Argument(help="A study's folder, or one of tables; the profile's if empty.")
    ] = "",
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All tables of README, as Markdown.")
    ] = False,
) -> None:
    """The paper's findings beside this study's numbers and verdicts, and where those come from;
    without a study, of the reference results.
    """
    from pulse_lib.commands import results

    found = results.results(str(from_here(folder)) if folder else "", profile=profile)
    if markdown:
        print(results.as_markdown(found))
        return
    table = Table("finding", "paper", "here", "verdict", show_lines=True)
    for row in results.beside_the_paper(found).itertuples(index=False):
        table.add_row(*row)
    _console().print(table)
    print(f"{results.NOTE}\n{found.folder}: {found.origin}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A study's folder, or one of tables.")],
    b: Annotated[str, typer.Argument(help="Another; the reference results if empty.")] = "",
) -> None:
    """Two results side by side: verdicts, ranks, and the numbers of A outside B's intervals."""
    from pulse_lib.commands import results

    other = str(from_here(b)) if b else str(results.REFERENCE)
    ours, theirs = results.results(str(from_here(a))), results.results(other)
    found = results.compare(ours, theirs)
    outside = found.numbers[found.numbers["outside"]]
    for title, frame in {
        "Verdicts": found.verdicts,
        "Ranks": found.ranks,
        "Numbers of A outside B's intervals": outside,
    }.items():
        if len(frame):
            _print_frame(frame, title=title, digits=".3g")
    print(f"A {ours.folder}: {ours.origin}\nB {theirs.folder}: {theirs.origin}\n{found.sentence}")


@app.command()
def keep(
    study: Annotated[Path, typer.Argument(help="A study's folder, e.g. outputs/tiny.")],
    into: Annotated[Path, typer.Argument(help="Folder for its rows, to be committed.")],
    *,
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    full: Annotated[
        str, typer.Option(help="Methods whose texts are kept of every seed, parted by commas.")
    ] = "ga,ga_klr,npo,oracle",
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="With the first seed's pictures; of drawn people unless said, for photos are somebody's.",
        ),
    ] = None,
) -> None:
    """Write what the analysis reads of a study in a form small enough to commit, seed by seed: no
    models, no notebooks. `analyze --from` makes every table and figure of it.
    """
    from pulse_lib.commands import kept
    from pulse_lib.profile import load_profile
    from pulse_lib.study.grid import options_from_texts

    methods = options_from_texts(profile=profile, methods=full).methods
    into = from_here(into)
    table = kept.keep(
        from_here(study),
        into,
        profile=load_profile(profile),
        full=methods,
        with_pictures=pictures,
    )
    print(table.to_string(index=False))
    print(f"{table['mb'].sum():.1f} MB in {into}; python -m pulse_lib analyze --from {into}")


@app.command()
def analyze(
    source: Annotated[Path, typer.Option("--from", help="What `keep` wrote, or a folder with it.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="A new folder; outputs/<folder's name>-again if empty.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Of these seeds alone, parted by commas.")] = "",
    methods: Annotated[str, typer.Option(help="Of these methods alone, parted by commas.")] = "",
    strategies: Annotated[
        str, typer.Option(help="Of requests in a row, these strategies alone.")
    ] = "",
) -> None:
    """Every table, figure and number of a study, or of a part of it, from its committed rows, without
    a run: 05 on what `keep` wrote.
    """
    from pulse_lib.commands import kept
    from pulse_lib.files import REPOSITORY, show
    from pulse_lib.strategies import get_strategy
    from pulse_lib.study.grid import options_from_texts

    source = from_here(source)
    place = from_here(out) if out else REPOSITORY / "outputs" / f"{source.name}-again"
    chosen = options_from_texts(seeds=seeds or "0", methods=methods or "all")
    part = kept.Part(
        chosen.seeds if seeds else (),
        methods=chosen.methods if methods else (),
        strategies=[get_strategy(s.strip()).id for s in strategies.split(",")]
        if strategies
        else (),
    )
    folder = kept.analyze(source, place, part=part)
    _console().print(f"{show(folder)}: tables, figures, report.html")
    _console().print(f"the tables of README: python -m pulse_lib ledger {show(place)} --markdown")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, e.g. outputs/...")],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    *,
    state: Annotated[str, typer.Option(help="Of a single-shot run: final or matched.")] = "",
    round_number: Annotated[
        int, typer.Option("--round", help="Of a sequential run; 0: its last.")
    ] = 0,
) -> None:
    """Merge a run's adapters into the 16-bit model: a folder that from_pretrained loads."""
    from pulse_lib.commands.export import export_run

    in_range("--round", round_number, least=0)
    card = export_run(from_here(run), from_here(out), state=state, round_number=round_number)
    print(
        f"{out}: {card['base_model']} with {len(card['adapters'])} adapters merged into "
        f"{card['n_layers_changed']} layers ({card['state']})"
    )


@app.command()
def measure(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results of this model state.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Ask this profile's own model.")] = "",
    *,
    model: Annotated[
        Path | None,
        typer.Option(help="Take in a model that other code unlearned: merged folder or adapter."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="With --model, merged: the folder that it began with.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Ask the model that this finished run left.")
    ] = None,
    state: Annotated[str, typer.Option(help="Of a single-shot run: final or matched.")] = "",
    round_number: Annotated[
        int, typer.Option("--round", help="Of a sequential run; 0: its last.")
    ] = 0,
    what: Annotated[
        str, typer.Option(help="Parted by commas: mmbench, generation, cloze, keywords.")
    ] = "mmbench,generation,cloze",
    groups: Annotated[int, typer.Option(help="Questions of MMBench; 0: all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Of generation and cloze.")] = 50,
    seed: Annotated[
        int | None, typer.Option(help="With --profile: whose people are asked about; 0 if empty.")
    ] = None,
    out_dir: Annotated[
        str, typer.Option(help="With --profile: the study's folder; outputs/<profile> if empty.")
    ] = "",
) -> None:
    """MMBench's own scores, and MLLMU-Bench's generation and cloze tasks, of one model: a
    profile's, or the one a run left. A stopped MMBench goes on where it was. With --model: the
    study's own questions put to someone else's model, made from the one that --run left; it then is
    a run of the study.
    """
    if model:
        if out or profile or run is None:
            raise PulseError(
                "--model goes into the study of the run that it began with: give that run with --run "
                "(target/seed-0, or data/seed-0 for pre-trained knowledge), and no --out or --profile"
            )
        _adopt(from_here(model), from_here(base) if base else None, run=from_here(run))
        return
    if base:
        raise PulseError("--base goes with --model")
    if out is None:
        raise PulseError("--out is missing: name a folder for the results")
    if bool(profile) == bool(run):
        raise PulseError("give either --profile (its own model) or --run (the model a run left)")
    if profile and (state or round_number):
        raise PulseError("--state and --round are of a run: give --run instead of --profile")
    if run and (seed is not None or out_dir):
        raise PulseError("--seed and --out-dir go with --profile: a run has its own")
    for option, value, least in (
        ("--round", round_number, 0),
        ("--groups", groups, 0),
        ("--max-new-tokens", max_new_tokens, 1),
        ("--seed", seed or 0, 0),
    ):
        in_range(option, value, least=least)
    from pulse_lib.commands import measure
    from pulse_lib.commands.states import state_of_profile, state_of_run

    out = from_here(out)
    if run:
        chosen = state_of_run(from_here(run), state, round_number=round_number)
    else:
        chosen = state_of_profile(
            profile, seed or 0, out_dir=str(from_here(out_dir)) if out_dir else ""
        )
    try:
        tables = measure.measure(
            chosen, out, what=what.split(","), groups=groups, max_new_tokens=max_new_tokens
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is left.", file=sys.stderr)
        raise typer.Exit(130) from None
    for name, found in tables.items():
        _print_frame(found, title=f"{name}: {chosen.name}")
    print(f"written to {out}")


def _adopt(model: Path, base: Path | None, *, run: Path) -> None:
    from pulse_lib.commands.outside import adopt

    name, found = adopt(model, base, run=run)
    _print_frame(found, title=name)
    print(f"in the study now: python -m pulse_lib notebook 06 -p run {name} probes it")


@app.command()
def plan(
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    gpu: Annotated[
        str, typer.Option(help='A card by name, e.g. a100 or "t4 x2"; the one here if empty.')
    ] = "",
    *,
    gpu_gib: Annotated[
        float, typer.Option(help="A card by its memory in GiB; 0: the one that --gpu says.")
    ] = 0.0,
) -> None:
    """What a profile costs in memory, disk, download and time, before anything is downloaded; ends
    with 1 if it does not fit, or if that cannot be said without a card's name.
    """
    from pulse_lib.commands import estimate
    from pulse_lib.profile import load_profile

    in_range("--gpu-gib", gpu_gib, least=0, most=100_000)
    settings = load_profile(profile)
    found = estimate.cost(settings, estimate.find_card(gpu, gpu_gib))
    table = Table(title=f"{settings.name}: {settings.model.path}", title_justify="left")
    for column, justify in (("what", "left"), ("item", "left"), ("estimate", "right")):
        table.add_column(column, justify=justify, overflow="fold")
    before = ""
    for what, item, amount in estimate.table_rows(found):
        if before and what != before:
            table.add_section()
        table.add_row(what if what != before else "", item, amount)
        before = what
    _console().print(table)
    for line in found.assumptions:
        _console().print(f"assumed: {line}")
    _console().print(estimate.verdict(found))
    if not found.fits:
        raise typer.Exit(1)


@app.command()
def preflight(
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    methods: Annotated[str, typer.Option(help=OPTIONS["methods"][1])] = "ga,ga_klr,npo",
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the result; outputs/<profile>/preflight if empty."),
    ] = None,
) -> None:
    """Prove a profile's path on this machine before hours are spent: the model's files and prompts, the
    quick way of asking, known answers, the reference, twenty steps of each method, and the data. Ends
    with 1 if a check fails.
    """
    import time

    from pulse_lib.commands import preflight as flight
    from pulse_lib.files import show
    from pulse_lib.profile import load_profile
    from pulse_lib.runs.kinds import out_folder
    from pulse_lib.study.grid import options_from_texts

    settings, checks, began = load_profile(profile), [], time.monotonic()
    chosen = options_from_texts(profile=profile, methods=methods)
    colours = {"passed": typer.colors.GREEN, "failed": typer.colors.RED}
    for check in flight.preflight(settings, chosen.methods):
        checks.append(check)
        mark = typer.style(f"{check.outcome:7}", fg=colours.get(check.outcome))
        typer.echo(f"{mark} {check.name}: {check.said}")
    folder = from_here(out) if out else out_folder(profile, "") / "preflight"
    seconds = time.monotonic() - began
    page = flight.write(folder, settings, checks=checks, seconds=seconds)
    print(f"{seconds:.0f} s; to show to others: {show(page)}")
    if not flight.passed(checks):
        raise typer.Exit(1)


@app.command("mllmu-compat")
def mllmu_compat(
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny-equal",
    seeds: Annotated[
        str, typer.Option(help="Of the unlearning step; the first one's target is unlearned.")
    ] = "0",
    *,
    questions: Annotated[int, typer.Option(help="Of each set; 0: all.")] = 200,
    out_dir: Annotated[str, typer.Option(help=OPTIONS["out_dir"][1])] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the result; the study's if empty.")
    ] = None,
) -> None:
    """Why does my number differ? Each choice of MLLMU-Bench's code (few-shot, scoring, supervised
    tokens, NPO's reference and mean, retain people), one at a time, on one target.
    """
    from pulse_lib.commands import compat, compat_page
    from pulse_lib.runs.kinds import out_dir_from_here, out_folder
    from pulse_lib.study.grid import options_from_texts

    in_range("--questions", questions, least=0)
    study = out_dir_from_here(out_dir)
    options = options_from_texts(profile=profile, seeds=seeds, out_dir=study)
    found = compat.compat(options.profile, options.seeds, out_dir=study, n_questions=questions)
    place = from_here(out) if out else out_folder(options.profile, study)
    path = compat.write(place, found)
    for state in ("before", "after"):
        print(
            f"\nAsked as MLLMU-Bench does, {state} unlearning\n{compat_page.asked_table(found, state)}"
        )
    print(f"\nUnlearned as MLLMU-Bench does\n{compat_page.trained_table(found)}\n{path}")


@app.command("check-data")
def check_data(
    folder: Annotated[Path, typer.Argument(help="Folder with questions.csv and the photos.")],
) -> None:
    """What is in a folder of own people, what is wrong by file and row, and the counts for a
    profile; ends with 1 if something is wrong.
    """
    from pulse_lib.data.folder.check import check, said

    found = check(from_here(folder))
    for line in said(found):
        _console().print(line, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@app.command("pretrain-tiny")
def pretrain_tiny(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Seed of the pre-training.")] = 0,
    *,
    without: Annotated[
        Path | None, typer.Option(help="File: one person id a line to leave out.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in 16 bits.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short version that only shows the way.")
    ] = False,
    measure_only: Annotated[
        bool, typer.Option("--measure-only", help="Measure the model in --out anew, for its card.")
    ] = False,
) -> None:
    """Make the embedded model again: 10 minutes on two idle cores."""
    from pulse_lib.pretrain.recipe import measure_again, pretrain, read_people

    in_range("--seed", seed, least=0)
    out = from_here(out)
    if measure_only:
        measure_again(out)
    else:
        left_out = read_people(from_here(without)) if without else ()
        pretrain(out, seed, without=left_out, half=half, quick=quick)


@app.command()
def oracles(
    profile: Annotated[str, typer.Option(help=OPTIONS["profile"][1])] = "tiny",
    seeds: Annotated[str, typer.Option(help=OPTIONS["seeds"][1])] = "0",
    *,
    out_dir: Annotated[str, typer.Option(help=OPTIONS["out_dir"][1])] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="A short version that only shows the way.")
    ] = False,
) -> None:
    """Pre-train the embedded model once more for each seed, without the people that this seed of a
    profile forgets: the oracle of pre-trained knowledge. 10 minutes each on two idle cores.
    """
    from pulse_lib.commands.oracles import make_oracle
    from pulse_lib.study.grid import options_from_texts

    options = options_from_texts(profile=profile, seeds=seeds, out_dir=out_dir)
    for seed in dict.fromkeys(options.seeds):
        print(make_oracle(options.profile, seed, out_dir=options.out_dir, quick=quick), flush=True)


@app.command()
def lab() -> None:
    """The notebooks in JupyterLab; begin with 01_build_datasets."""
    if INSTALLED:
        raise PulseError(
            "the notebooks are edited and run by hand in a clone of the repository: git clone it, "
            "then make lab"
        )
    words = [sys.executable, "-m", "jupyterlab", str(KIT / "notebooks" / "01_build_datasets.ipynb")]
    if os.geteuid() == 0:  # as in a container; JupyterLab refuses otherwise
        words.append("--allow-root")
        print("warning: you are root, so that whoever opens this page is root too", file=sys.stderr)
    os.execv(sys.executable, words)


def _print_frame(frame: "pd.DataFrame", *, title: str = "", digits: str = ".3f") -> None:
    """A data frame as a table of the command line; `digits`: how fractions are written."""
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(column, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:{digits}}" if isinstance(v, float) else str(v) for v in row))
    _console().print(table)


def _console() -> Console:
    # markup and emoji off: folders and messages are printed as they are, "[/x]" and ":x:" too
    console = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    # Written to a file or a pipe, rich assumes 80 columns and would break the tables.
    return Console(highlight=False, width=140, markup=False, emoji=False)


def main() -> None:
    """Run the command line; a PulseError is printed without a stack trace."""
    machine.prepare()
    try:
        app()
    except PulseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        path = Path(os.fsdecode(error.filename)) if error.filename else Path("a file")
        print(f"error: {write_error(error, path)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
