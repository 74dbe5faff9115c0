"""The first cell of a notebook, at home and on Colab and Kaggle: where it finds the kit, and what it
installs."""

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulse_lib import colab
from pulse_lib.data import hub, source
from pulse_lib.data.folder import check
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import out_dir_from_here, out_folder

HOSTS = [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle")]
GIT = """\
#!/bin/sh
echo "$@" >> {log}
[ "$1 $4 $5" = "clone {url} pulse-kit" ] || exit 1
mkdir pulse-kit && cp -R {kit}/pulse_lib {kit}/pyproject.toml pulse-kit/
"""


# What Colab had in August 2026 (Python 3.13) and Kaggle (3.12), of what the kit needs, and an older
# Colab of 2025; both have torchao as well
COLAB = {
    **{"torch": "2.11.0+cu128", "transformers": "5.15.0", "tokenizers": "0.22.2"},
    **{"huggingface-hub": "1.27.0", "peft": "0.20.0", "accelerate": "1.14.0", "torchao": "0.10.0"},
    **{"numpy": "2.1.3", "pandas": "2.2.3", "pillow": "11.3.0", "pyarrow": "18.1.0"},
    **{"ipywidgets": "7.7.1", "ipykernel": "6.17.1", "safetensors": "0.6.2", "psutil": "5.9.5"},
    **{"filelock": "3.19.1", "pydantic": "2.11.7", "scipy": "1.16.1", "matplotlib": "3.10.0"},
    **{"seaborn": "0.13.2", "nbformat": "5.10.4", "typer": "0.16.1", "rich": "13.9.4"},
    **{"jinja2": "3.1.6", "pyyaml": "6.0.2", "tqdm": "4.67.1"},
    **{"fonttools": "4.22.0"},  # or newer: what matplotlib asks for
}
KAGGLE = COLAB | {"ipywidgets": "8.1.5", "papermill": "2.6.0", "peft": "0.19.1", "torch": "2.10.0"}
OLD = COLAB | {"transformers": "4.57.1", "peft": "0.17.0", "huggingface-hub": "0.34.4"}


@dataclass
class Machine:
    """A host as `colab` sees it: what is installed, and the commands that were run."""

    packages: dict[str, str]
    commands: list[list[str]]
    held: list[str]  # of each install, what was held at its version


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Machine:
    """A machine whose pip installs what it is told, in no time."""
    made = Machine(dict(COLAB), [], [])
    for variable, _ in HOSTS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv(colab.RESTART, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(colab, "installed", lambda: dict(made.packages))

    def pip(command: list[str], check: bool) -> None:
        words = command[3:]
        made.commands.append(words)
        if words[0] == "uninstall":
            made.packages.pop(words[2])
            return
        made.held += Path(words[words.index("--constraint") + 1]).read_text().split()
        for word in words:
            if "=" in word:  # the oldest that is wanted
                made.packages[colab._name(word)] = re.search(r">=([\d.]+)", word)[1]

    monkeypatch.setattr(subprocess, "run", pip)
    return made


def installs(machine: Machine) -> set[str]:
    return {
        colab._name(word)
        for words in machine.commands
        for word in words
        if words[0] == "install" and any(c in word for c in "<>=")
    }


def test_nothing_is_installed_at_home(machine):
    colab.setup()
    assert colab.host() == "" and machine.commands == []
    assert Path.cwd() == REPOSITORY and sys.path[0] == str(REPOSITORY)


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (COLAB, {"bitsandbytes", "papermill", "snakemake", "rouge-score", "transformers"}),
        (KAGGLE, {"bitsandbytes", "snakemake", "rouge-score", "transformers"}),
        (
            OLD,
            {"bitsandbytes", "papermill", "snakemake", "rouge-score"}
            | {"transformers", "peft", "huggingface-hub"},
        ),
    ],
    ids=["colab", "kaggle", "colab of 2025"],
)
@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_hosts_get_what_is_missing_or_too_old_and_nothing_else(
    machine, monkeypatch, variable, name, there, wanted
):
    monkeypatch.setenv(variable, "Batch")
    machine.packages = dict(there)
    for loaded in ("transformers", "peft", "huggingface_hub"):  # a session that has just begun
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    colab.setup()
    assert colab.host() == name and installs(machine) == wanted
    assert machine.commands[0] == ["uninstall", "-y", "torchao", "-q"]  # peft refuses 0.10
    assert "ipywidgets" not in installs(machine) and "ipykernel" not in installs(machine)
    # and what comes with the others cannot replace them either
    kept = {f"{name}=={there[name]}" for name in ("torch", "ipywidgets", "ipykernel")}
    assert set(machine.held) == kept
    machine.commands.clear()
    colab.setup()  # the second time there is nothing to do
    assert machine.commands == []


def test_every_requirement_of_the_kit_is_looked_at(machine, monkeypatch):
    """On a bare machine all of pyproject.toml is installed but for what is left as it is."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    machine.packages = {"torch": "2.11.0+cu128"}
    colab.setup()
    every = {colab._name(wanted) for wanted in colab.requirements()}
    assert len(every) > 25 and installs(machine) == every - set(colab.KEPT)


def test_a_torchao_that_peft_takes_stays(machine, monkeypatch):
    from packaging.version import Version
    from peft import import_utils

    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    machine.packages |= {"torchao": colab.TORCHAO, "transformers": "5.23.0"}
    colab.setup()
    assert [words[0] for words in machine.commands] == ["install"]
    refused = re.search(r'TORCHAO_MINIMUM_VERSION = .*"([\d.]+)"', inspect.getsource(import_utils))
    assert Version(refused[1]) == Version(colab.TORCHAO)


def test_what_was_replaced_while_in_use_asks_for_a_restart(machine, monkeypatch):
    """numpy of this process, as Colab's kernel has it loaded before the first cell; until the kernel
    is another one."""
    assert "numpy" in sys.modules
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    machine.packages["numpy"] = "1.25.0"
    for _ in range(2):
        with pytest.raises(PulseError, match=r"in use: numpy.*Runtime > Restart session"):
            colab.setup()
        machine.packages.pop("papermill")  # what is installed later does not make it forget
    assert len([words for words in machine.commands if words[0] == "install"]) == 2
    machine.packages["papermill"] = "2.6.0"
    monkeypatch.delenv(colab.RESTART)
    colab.setup()


def test_a_torch_that_is_too_old_is_not_replaced(machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    machine.packages["torch"] = "2.5.1+cu121"
    with pytest.raises(PulseError, match=r"has torch 2\.5\.1.*torch>=2\.6.*newer runtime"):
        colab.setup()
    assert machine.commands == []


@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_without_internet_it_says_so(machine, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "1")

    def pip(command, check):
        if command[3] == "install":
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", pip)
    where = {"colab": "look at its network", "kaggle": "Settings > Internet"}[name]
    with pytest.raises(PulseError, match=rf"could not install .*snakemake.*internet.*{where}"):
        colab.setup()


# --- files ----------------------------------------------------------------------------------------


def test_a_word_stands_for_the_folder_that_outlives_the_session(tmp_path, monkeypatch):
    for word in colab.PLACES:
        with pytest.raises(PulseError, match=f"out_dir = '{word}' is for"):
            out_folder("tiny", word)
    drive, working = tmp_path / "content" / "drive" / "MyDrive", tmp_path / "kaggle" / "working"
    places = {"drive": drive / "pulse-kit", "working": working / "results"}
    monkeypatch.setattr(colab, "PLACES", places)
    working.mkdir(parents=True)
    assert out_folder("tiny", "working") == working / "results" / "tiny"
    mounted = []
    google = types.ModuleType("google.colab")
    google.drive = types.SimpleNamespace(
        mount=lambda at: (mounted.append(at), drive.mkdir(parents=True))
    )
    monkeypatch.setitem(sys.modules, "google.colab", google)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    for _ in range(2):
        assert out_folder("smoke", "drive") == drive / "pulse-kit" / "smoke"
    assert mounted == [str(drive.parent)]
    # a command line leaves the words alone, and makes other folders absolute
    assert out_dir_from_here("drive") == "drive" and out_dir_from_here("") == ""
    assert out_dir_from_here("./drive") == str(Path.cwd() / "drive")


@pytest.fixture
def kaggle_input(tmp_path, monkeypatch):
    folder = tmp_path / "input"
    monkeypatch.setattr(colab, "ATTACHED", folder)
    return folder


def test_an_attached_model_and_data_set_are_found_by_name(kaggle_input):
    """As Kaggle spells them, at the depth where it puts them, and only if they are whole."""
    need = hub.model_need("llava-hf/llava-1.5-7b-hf", "main")
    assert hub.here(need) is None
    other = kaggle_input / "llava-1-5-13b-hf" / "transformers"
    model = kaggle_input / "llava-1-5-7b-hf" / "transformers" / "default" / "1"
    for folder in (other, model):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        (folder / "model-00001-of-00002.safetensors").touch()
    assert hub.here(need) is None
    (model / "model-00002-of-00002.safetensors").touch()
    assert hub.here(need) == hub.folder_of(need) == model
    profile = load_profile("colab-t4-7b")
    assert source.commits(profile)["model.path"] == f"unknown: {model}"


def test_an_attached_folder_of_own_people_is_found_by_name(kaggle_input):
    folder = kaggle_input / "my-photos"
    folder.mkdir(parents=True)
    assert check.check("people/My_Photos").folder != folder
    (folder / "questions.csv").touch()
    assert check.check("people/My_Photos").folder == folder


def test_a_study_is_packed_without_its_attempts(tmp_path, monkeypatch):
    out = tmp_path / "tiny"
    kept = ["analysis/report.html", "data/seed-0/rows.parquet"]
    for name in (*kept, ".logs/front.lock", "target/seed-0.half/log.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    packed = colab.pack(out)
    assert packed == tmp_path / "tiny.zip"
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == [f"tiny/{name}" for name in kept]
        assert archive.read(f"tiny/{kept[0]}").decode() == kept[0]
    with pytest.raises(PulseError, match="nothing there"):
        colab.pack(tmp_path / "empty")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    monkeypatch.setattr(colab, "ROOT", tmp_path / "content" / "pulse-kit")
    (tmp_path / "content").mkdir()
    assert colab.pack(out) == tmp_path / "content" / "tiny.zip"


def test_a_large_model_without_a_gpu_ends_at_once(monkeypatch):
    torch = pytest.importorskip("torch")
    model = load_profile("colab-t4-7b").model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    with pytest.raises(PulseError, match="needs a GPU.*T4 GPU"):
        colab.check_gpu(model.path, model.load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    colab.check_gpu(model.path, model.load)


@pytest.mark.parametrize("path", ["embedded", "/data/llava", "./llava", "no/model/is/loaded"])
def test_a_small_or_local_model_needs_no_gpu(monkeypatch, path):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    colab.check_gpu(path, "full")
    colab.check_gpu(path, "4bit")


def test_the_guide_says_what_is_so():
    said = (REPOSITORY / "docs" / "hosted.md").read_text()
    for word, folder in colab.PLACES.items():
        assert f"| `{word}` | `{folder}/<profile>` |" in said
    assert f"older than {colab.TORCHAO.removesuffix('.0')}" in said
    assert "llava-1-5-7b-hf" in said and str(colab.ATTACHED) in said


# --- the first cell -------------------------------------------------------------------------------


def first_cell(folder: Path, times: int = 1, **variables: str) -> subprocess.CompletedProcess:
    """The set-up cell run in `folder` by a python that sees no installed kit, then the place where
    `pulse_lib` comes from and the working folder, a line each."""
    notebook = json.loads((REPOSITORY / "notebooks" / "01_build_datasets.ipynb").read_text())
    cell = next("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    told = "import pulse_lib\nprint(pulse_lib.__file__)\nprint(os.getcwd())"
    hidden = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "PYTHONPATH"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | variables
    command = [sys.executable, "-c", "\n".join([*[cell] * times, told])]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def copy_of_the_kit(folder: Path) -> Path:
    """`folder`, with a pulse_lib that holds no more than the first cell needs."""
    (folder / "pulse_lib").mkdir(parents=True)
    for name in ("__init__.py", "colab.py", "errors.py", "files.py", "machine.py"):
        (folder / "pulse_lib" / name).write_text((REPOSITORY / "pulse_lib" / name).read_text())
    (folder / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.0"]\n')
    return folder


@pytest.mark.parametrize("below", ["", "notebooks", "outputs/tiny/data/seed-0"])
def test_the_first_cell_finds_the_kit_around_it(tmp_path, below):
    """This one and no other that is installed."""
    kit = copy_of_the_kit(tmp_path / "my kit")
    (kit / below).mkdir(parents=True, exist_ok=True)
    done = first_cell(kit / below, times=2)
    assert done.stdout.splitlines() == [str(kit / "pulse_lib" / "__init__.py"), str(kit)]


def test_the_first_cell_outside_the_kit_says_what_to_do(tmp_path):
    done = first_cell(tmp_path)
    assert done.returncode != 0 and "No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []
    cell = json.loads((REPOSITORY / "notebooks" / "01_build_datasets.ipynb").read_text())
    assert "Start inside the kit" in json.dumps(cell)


@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_the_first_cell_fetches_the_kit_once_on_a_host(tmp_path, variable, name):
    log, git = tmp_path / "log", tmp_path / "bin" / "git"
    git.parent.mkdir()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    url = project["urls"]["Repository"]
    git.write_text(GIT.format(log=log, url=url, kit=copy_of_the_kit(tmp_path / "origin")))
    git.chmod(0o755)
    work = tmp_path / "content"
    work.mkdir()
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    done = first_cell(work, times=2, PATH=path, **{variable: "1"})
    kit = work / "pulse-kit"
    assert done.stdout.splitlines() == [str(kit / "pulse_lib" / "__init__.py"), str(kit)]
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_the_first_cell_without_internet_says_so(tmp_path, variable, name):
    (tmp_path / "git").write_text("#!/bin/sh\necho Could not resolve host >&2\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    work = tmp_path / "content"
    work.mkdir()
    done = first_cell(work, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **{variable: "1"})
    assert done.stderr.rstrip().endswith("switch the internet on") and done.returncode


def test_description_names_versions_and_the_reason_for_the_dtype():
    line = colab.describe()
    assert "torch " in line and ("float32 (no GPU found)" in line or "compute capability" in line)
