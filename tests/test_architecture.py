"""The house stays as docs/architecture.md draws it: imports run down only, without a circle; calls
can be read; the command line starts fast."""

import ast
import json
import re
import subprocess
import sys

import pytest

from pulse_lib.files import REPOSITORY

LIBRARY = REPOSITORY / "pulse_lib"
MOST_MODULES_AT_THE_ROOT = 10
MOST_PARAMETERS = 12
MOST_ARGUMENTS_IN_A_NOTEBOOK = 6
POSITIONAL = 2
# Their positional signatures are contracts.
CONTRACTS = {"pulse_lib.evaluate.extract", "pulse_lib.train.losses"}
# Python and torch call these by position.
CALLED_FROM_OUTSIDE = {"__exit__", "__call__", "forward"}


def module_name(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(p): ast.parse(p.read_text()) for p in sorted(LIBRARY.rglob("*.py"))}


def imported(tree):
    """Full names that a module imports anywhere, inside functions too: of `from a import b` both
    a.b and a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(name):
    """The library's modules that a module imports: the module itself where one is named, the
    package only where a name is taken from it."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in TREES else node.module)
    return {m for m in found if m in TREES} - {name}


def room(module):
    """The first part of a module's name below pulse_lib; "" for the package itself."""
    return ".".join(module.split(".")[1:2])


def rooms():
    """Room -> (floor, wing), as the table in docs/architecture.md has them."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (\w+) \| `(\w+)` \|", text, re.MULTILINE)
    return {name: (int(floor), wing) for floor, wing, name in rows}


def test_every_room_has_its_line_in_the_drawing():
    assert set(rooms()) == {room(m) for m in TREES} - {""}


def test_imports_run_down_only():
    floors = {name: floor for name, (floor, _) in rooms().items()}
    up = [
        f"{name} imports {other}"
        for name in TREES
        for other in modules_imported(name)
        if room(name) and room(other) and room(name) != room(other)
        if floors[room(other)] >= floors[room(name)]
    ]
    assert not up, "\n".join(up)


def test_the_wings_do_not_know_each_other():
    wings = {name: wing for name, (_, wing) in rooms().items()}
    across = [
        f"{name} imports {other}"
        for name in TREES
        for other in modules_imported(name)
        if {wings.get(room(name)), wings.get(room(other))} == {"science", "runs"}
    ]
    assert not across, "\n".join(across)


def test_no_circle_of_imports():
    """Lazy imports count. A name taken from a package stands for its __init__, and that imports
    what it says."""
    imports = {name: modules_imported(name) for name in TREES}
    done, trail = set(), []

    def visit(name):
        if name in trail:
            circle = [*trail[trail.index(name) :], name]
            pytest.fail(" -> ".join(circle))
        if name not in done:
            trail.append(name)
            for other in sorted(imports[name]):
                visit(other)
            trail.pop()
            done.add(name)

    for name in sorted(imports):
        visit(name)


def test_the_library_imports_nothing_that_stands_on_it():
    for name, tree in TREES.items():
        above = {m.split(".")[0] for m in imported(tree)} & {"notebooks", "tests", "benchmarks"}
        assert not above, f"{name} imports {above}"


def test_few_modules_at_the_root():
    modules = [p.name for p in LIBRARY.glob("*.py") if p.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES_AT_THE_ROOT, modules


# --- calls ------------------------------------------------------------------------------------


def functions():
    """(where, function, its positional parameters without self) of every function and method that
    is not inside another one."""
    for name, tree in TREES.items():
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
        for owner in (tree, *classes):
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                static = any("staticmethod" in ast.unparse(d) for d in node.decorator_list)
                if isinstance(owner, ast.ClassDef) and not static:
                    positional = positional[1:]
                yield f"{name}:{node.lineno} {node.name}", node, positional


def test_arguments_after_the_second_are_given_by_name():
    many = [
        where
        for where, node, positional in functions()
        if len(positional) > POSITIONAL
        and where.split(":")[0] not in CONTRACTS
        and node.name not in CALLED_FROM_OUTSIDE
    ]
    assert not many, "\n".join(many)


def test_fields_after_the_second_are_given_by_name():
    """Of dataclasses: `_: KW_ONLY` stands at the third field or above."""
    many = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or name in CONTRACTS:
                continue
            decorators = " ".join(ast.unparse(d) for d in node.decorator_list)
            if "dataclass" not in decorators or "kw_only=True" in decorators:
                continue
            positional = 0
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    annotation = ast.unparse(field.annotation)
                    if "KW_ONLY" in annotation:
                        break
                    value = ast.unparse(field.value) if field.value else ""
                    positional += "ClassVar" not in annotation and "init=False" not in value
            if positional > POSITIONAL:
                many.append(f"{name}:{node.lineno} {node.name}")
    assert not many, "\n".join(many)


def test_no_function_has_many_parameters():
    many = []
    for where, node, positional in functions():
        n = len(positional) + len(node.args.kwonlyargs)
        if n > MOST_PARAMETERS:
            many.append(f"{where}: {n}")
    assert not many, "\n".join(many)


def notebook_cells():
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path.stem, ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_no_call_in_a_notebook_has_many_arguments():
    many = []
    for name, cells in notebook_cells():
        for cell in cells:
            for node in ast.walk(ast.parse(cell)):
                if isinstance(node, ast.Call):
                    n = len(node.args) + len(node.keywords)
                    if n > MOST_ARGUMENTS_IN_A_NOTEBOOK:
                        many.append(f"{name}: {ast.unparse(node.func)} has {n}")
    assert not many, "\n".join(many)


def test_the_setup_cell_is_short():
    for name, cells in notebook_cells():
        lines = [line for line in cells[0].splitlines() if line.strip()]
        assert len(lines) <= 8, name  # two to spare: a longer address breaks a line


# --- start ------------------------------------------------------------------------------------

SLOW = ("torch", "transformers", "pandas", "matplotlib", "snakemake")


@pytest.mark.parametrize("code", ["import pulse_lib", "from pulse_lib.__main__ import app"])
def test_nothing_slow_is_imported_at_the_start(code):
    code = f"import sys\n{code}\nprint(*(m for m in {SLOW} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
