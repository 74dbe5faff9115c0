"""What a run is said to depend on is what its notebook reads: the notebooks are run in this process
with every section of the profile watched.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest
import yaml

from pulse_lib import runs
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import (
    DataSettings,
    EvaluateSettings,
    FinetuneSettings,
    GeneralSettings,
    ModelSettings,
    PeopleSettings,
    ProbeSettings,
    Profile,
    UnlearnSettings,
    load_profile,
)
from pulse_lib.report.tables import settings as settings_room
from pulse_lib.runs import identity, kinds, library, manifest
from pulse_lib.runs.kinds import fields, flat_settings
from pulse_lib.study import grid

SECTIONS = {
    ModelSettings: "model",
    DataSettings: "data",
    PeopleSettings: "data.people",
    GeneralSettings: "data.general",
    FinetuneSettings: "finetune",
    UnlearnSettings: "unlearn",
    EvaluateSettings: "evaluate",
    ProbeSettings: "probe",
}
NAMES = set(flat_settings(load_profile("smoke").as_dict())) - {"name", "description", "tuned"}
# One run of each kind, and those whose methods read more than others
RUNS = {
    "data": ("data", {}),
    "target": ("target", {}),
    "fine-tuned": ("single_shot", {"method": "ga_klr"}),
    "pre-trained": ("single_shot", {"method": "npo", "scenario": "pretrained"}),
    "rmu": ("single_shot", {"method": "rmu"}),
    "oracle": ("single_shot", {"method": "oracle"}),
    "sequential": ("sequential", {"method": "ga_klr"}),
    "analysis": ("analysis", {}),
    "probe": ("probe", {"run": "single_shot/finetuned/ga_klr-projector+llm-seed-0"}),
    "explore": ("explore", {"run": "single_shot/finetuned/ga_klr-projector+llm-seed-0"}),
}


@pytest.fixture(scope="module")
def stopping(tmp_path_factory) -> str:
    """Profile smoke with a stop rule: without one a sequence measures nothing on its way, and reads
    fewer settings."""
    path = tmp_path_factory.mktemp("profile") / "stopping.yaml"
    path.write_text(
        "extends: smoke\ndescription: With a stop rule.\nunlearn: {stop_forget: 1.0e-9}\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def read(tmp_path_factory, stopping) -> dict[str, set[str]]:
    """Names of the settings that each of RUNS read, by name of the run."""
    out, found, watching = tmp_path_factory.mktemp("watched"), {}, []

    def watch(cls, section):
        plain = cls.__getattribute__

        def watched(self, name):
            reader = sys._getframe(1).f_code.co_filename  # not a check or a copy of the settings
            used = "pulse_lib/profile" not in reader and not reader.endswith("dataclasses.py")
            if used and watching and watching[-1] is not None and f"{section}.{name}" in NAMES:
                watching[-1].add(f"{section}.{name}")
            return plain(self, name)

        patch.setattr(cls, "__getattribute__", watched)

    @contextmanager
    def unwatched():
        watching.append(None)
        try:
            yield
        finally:
            watching.pop()

    def unseen(owner, name):
        """What reads settings to write them down or to print them, not to compute with them."""
        plain = getattr(owner, name)

        def call(*args, **kwargs):
            with unwatched():
                return plain(*args, **kwargs)

        patch.setattr(owner, name, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setenv("PULSE_BATCH", "1")
        for cls, section in SECTIONS.items():
            watch(cls, section)
        unseen(Profile, "as_dict")
        unseen(Profile, "unlearn_for")  # copies all of `unlearn`
        unseen(manifest, "commits")
        unseen(manifest, "fields")
        unseen(identity, "fields")
        unseen(manifest, "overridden")
        unseen(settings_room, "settings_table")
        for name, (kind, axes) in RUNS.items():
            scope = axes | {"profile": stopping, "out_dir": str(out), "__name__": "notebook"}
            scope = kinds.spec_of(kind, scope).parameters | {"__name__": "notebook"}
            scope["display"] = lambda *shown: None
            watching.append(set())
            for cell in library.code_cells(kinds.KINDS[kind].notebook):
                if "runpy" not in cell:  # the set-up cell
                    exec(compile(cell, name, "exec"), scope)
            found[name] = watching.pop()
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_run_depends_on_all_that_it_reads(read, stopping, name):
    kind, axes = RUNS[name]
    spec = runs.spec_of(kind, axes | {"profile": stopping})
    said = set(fields(kind, spec.parameters, profile=load_profile(stopping)))
    assert len(read[name]) > (0 if kinds.KINDS[kind].inputs is None else 10)
    # handed on for every method, used by losses on hidden states alone
    unsaid = sorted(read[name] - said - {"unlearn.depth"} - set(kinds.LATER))
    assert not unsaid, "read, and a change would not make the run stale"


def test_a_setting_that_came_later_counts_as_soon_as_it_is_set():
    profile, axes = load_profile("smoke"), RUNS["fine-tuned"][1]
    parameters = runs.spec_of("single_shot", axes | {"profile": "smoke"}).parameters
    for key, without in kinds.LATER.items():
        section, _, name = key.partition(".")
        settings = getattr(profile, section)
        assert getattr(settings, name) == without
        changed = profile.with_values(**{section: settings.with_values(**{name: 2})})
        assert key not in fields("single_shot", parameters, profile=profile)
        assert fields("single_shot", parameters, profile=changed)[key] == 2


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_no_kind_depends_on_what_none_of_its_runs_reads(read, stopping, kind):
    names = [name for name, (of, _) in RUNS.items() if of == kind]
    said = set()
    for name in names:
        spec = runs.spec_of(kind, RUNS[name][1] | {"profile": stopping})
        said |= set(fields(kind, spec.parameters, profile=load_profile(stopping))) & NAMES
    unread = said - set().union(*(read[name] for name in names))
    # of a section that a kind takes whole: which of them is read hangs on the others' values
    whole = ("model.", "data.", "finetune.")
    # needs a model that was pre-trained without the forget people: not made here
    assert {name for name in unread if not name.startswith(whole)} <= {"unlearn.oracle_model"}
    assert "unlearn.learning_rate" not in unread


# --- and so, what a change makes stale --------------------------------------------------------


@pytest.fixture
def study(kit):
    """A whole study of stand-ins: kit, and a function that says which runs a change makes stale."""
    options = grid.Options(**kit.shared, sequential=["ga", "ga/replay"])

    def states() -> dict[str, manifest.State]:
        plan = grid.plan(kit.profile, grid.study(options))
        return {spec.name: plan.states[spec.folder] for spec in plan.specs}

    for spec in grid.study(options):
        kit.finish(spec)
    assert {state.state for state in states().values()} == {"done"}
    plain = yaml.safe_load(kit.profile_file.read_text())

    def stale_after(**sections) -> set[str]:
        kit.profile_file.write_text(yaml.safe_dump(plain | sections))
        return {name for name, state in states().items() if state.state == "stale"}

    stale_after.states = states
    stale_after.kit = kit
    return stale_after


def test_fine_tuning_does_not_touch_pretrained_runs(study):
    stale = study(finetune={"epochs": 7})
    assert "target/seed-0" in stale and any("finetuned" in name for name in stale)
    assert not any("pretrained" in name or name.startswith("data") for name in stale)


def test_epochs_of_one_scenario_leave_the_other_alone(study):
    rate = {"learning_rate": 1.0e-3}
    stale = study(unlearn=rate | {"epochs_pretrained": 9})
    assert {name.split("/")[0] for name in stale} == {"single_shot", "analysis"}
    assert all("pretrained" in name for name in stale - {"analysis"})


def test_a_strategys_strength_makes_only_its_own_runs_stale(study):
    stale = study(tuned={"sequential": {"ga/replay": {"replay_share": 0.5, "learning_rate": 1e-3}}})
    (run,) = stale - {"analysis"}
    assert run.startswith("sequential/ga-replay")


def test_a_rate_that_is_overridden_makes_nothing_stale_and_is_said(study):
    tuned = {"pretrained": {"npo": {"learning_rate": 0.02, "beta": 0.3}}}
    study(tuned=tuned)
    for spec in study.kit.study(methods=["npo"])[:-1]:
        study.kit.finish(spec)
    stale = study(tuned=tuned, unlearn={"learning_rate": 5.0e-3})
    npo = "single_shot/pretrained/npo-projector+llm-seed-0"
    ga = "single_shot/pretrained/ga-projector+llm-seed-0"
    assert ga in stale and npo not in stale
    (said,) = study.states()[npo].without_effect
    assert "unlearn.learning_rate was 0.001, is 0.005, without effect here" in said
    line = 1 + study.kit.profile_file.read_text().splitlines().index("      learning_rate: 0.02")
    assert "tuned.pretrained.npo.learning_rate = 0.02" in said
    assert f"edit {study.kit.profile_file}, line {line}" in said
    assert not study.states()[ga].without_effect
