"""The structure of the repository: import contracts hold and can fail, files are short, public names are documented."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import seft_ref
from conformance.cases.ops import AREAS

ROOT = Path(seft_ref.__file__).parents[1]
PACKAGES = ("seft_ref", "formats", "seft_cli", "conformance", "seft_ports")
DESK = ("benchmarks", "experiments", "examples", "tools", "tests")
"""Folders that are not installed."""
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = [contract["name"] for contract in SETTINGS["tool"]["importlinter"]["contracts"]]
LONGEST = 400

# contracts that are broken together in one copy of the packages: contract -> (file that gains an import, the import)
TRESPASSES: list[dict[str, tuple[str, str]]] = [
    {
        "floors of the engine": ("seft_ref/topology/csr.py", "import seft_ref.model.decoder"),
        "floors of the format": ("formats/records.py", "import formats.delta"),
        "formats stands on its own ground": ("formats/__init__.py", "import seft_ref.errors"),
        "oracles never import the engine": ("conformance/oracle/__init__.py", "import seft_ref.errors"),
        "ports know nothing of the engine": ("seft_ports/__init__.py", "import seft_ref.errors"),
    },
    {
        "floors of the kit": ("conformance/cases/ops.py", "import conformance.judge.harness"),
        "floors of the command line": ("seft_cli/console.py", "import seft_cli.app"),
        "rules know neither kernels nor layers": ("seft_ref/update/drop.py", "import seft_ref.kernels"),
        "only the kit's port of the engine imports it": ("conformance/judge/harness.py", "import seft_ref.errors"),
        "nobody imports the kit": ("formats/__init__.py", "import conformance"),
    },
    {
        "only files opens checkpoints": ("seft_ref/text/tokens.py", "import formats"),
        "only arrays and compiled sets name an array library": ("seft_ref/prune/keep.py", "import numpy"),
        "nobody imports the command line": ("conformance/__init__.py", "import seft_cli.app"),
        "the tuner of PEFT stands on the PyTorch port": ("seft_ports/pytorch/__init__.py", "import seft_ports.peft"),
    },
]


def copy_of_the_house(to):
    """Copy the packages and their contracts to another folder, and return it; `conformance.oracle` always exists."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    (to / "conformance" / "oracle").mkdir(exist_ok=True)
    (to / "conformance" / "oracle" / "__init__.py").touch()
    return to


def verdicts(house):
    """Return contract -> KEPT or BROKEN, for a copy of the packages."""
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=house,
        env={"PYTHONPATH": str(house), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", found.stdout, re.MULTILINE))
    assert set(said) == set(CONTRACTS), found.stdout + found.stderr
    assert (found.returncode == 0) == (set(said.values()) == {"KEPT"})
    return said


def test_import_contracts_hold(tmp_path):
    assert verdicts(copy_of_the_house(tmp_path)) == dict.fromkeys(CONTRACTS, "KEPT")


def test_each_import_contract_bites(tmp_path):
    """Each contract is broken in the copy with its own trespass, and kept in another copy with other trespasses."""
    found = []
    for number, trespasses in enumerate(TRESPASSES):
        house = copy_of_the_house(tmp_path / str(number))
        for file, trespass in trespasses.values():
            path = house / file
            path.write_text(path.read_text(encoding="utf-8") + f"\n{trespass}\n", encoding="utf-8")
        found.append(verdicts(house))
    assert {contract for trespasses in TRESPASSES for contract in trespasses} == set(CONTRACTS)
    for trespasses, said in zip(TRESPASSES, found, strict=True):
        assert {contract: said[contract] for contract in trespasses} == dict.fromkeys(trespasses, "BROKEN")
        for contract in trespasses:
            assert any(other[contract] == "KEPT" for other in found if other is not said), contract


def test_a_module_that_stands_on_no_floor_fails(tmp_path):
    house = copy_of_the_house(tmp_path)
    floors = [f"floors of {of}" for of in ("the engine", "the kit", "the format", "the command line")]
    floors.append("the tuner of PEFT stands on the PyTorch port")
    for folder in ("seft_ref", "conformance", "formats", "seft_cli", "seft_ports"):
        (house / folder / "lost.py").write_text('"""Belongs nowhere."""\n')
    found = verdicts(house)
    assert {found[of] for of in floors} == {"BROKEN"}


SHARED = {
    "engine": "port values parts extras flaws sums on_cpu",
    "oracle": "second_reader second_folder foreign foreign_codes tape powers",
    "properties": "trial draws running artifacts relations invariants states anchored models large foreign",
    "wrong/mutants": "base",
}
"""Files of the kit that serve several areas."""


@pytest.mark.parametrize("room", SHARED)
def test_a_file_of_the_kit_is_named_after_its_area(room):
    found = {path.stem for path in (ROOT / "conformance" / room).glob("*.py")} - {"__init__", "__main__"}
    shared = set(SHARED[room].split())
    assert shared <= found
    assert {name for name in found - shared if name.split("_")[0] not in AREAS} == set()


def test_locals_say_what_they_hold():
    vague = {"found", "held", "told", "given", "seen", "here"}
    # a nested function is walked with the one around it
    functions = [
        (path, function)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for scope in ast.walk(tree_of(path))
        if isinstance(scope, ast.Module | ast.ClassDef)
        for function in scope.body
        if isinstance(function, ast.FunctionDef)
    ]
    assert len(functions) > 4000
    stored = {
        (path.relative_to(ROOT).as_posix(), name)
        for path, function in functions
        for node in ast.walk(function)
        if (name := node.arg if isinstance(node, ast.arg) else getattr(node, "id", "")) in vague
        if isinstance(node, ast.arg) or isinstance(node.ctx, ast.Store)
    }
    assert stored == set()


def test_every_folder_says_where_to_start():
    for package in (*PACKAGES, "benchmarks", "experiments", "examples"):
        for path in (ROOT / package).rglob("__init__.py"):
            # not in a template, because its folders belong to whoever copies it
            if path.parent.parent.name != "templates":
                said = " ".join((ast.get_docstring(tree_of(path)) or "").split())
                assert re.search(r"Start (reading )?(in|with) ", said), path


def test_files_that_contributors_are_sent_to_are_there():
    pages = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:seft_ref|formats|conformance|seft_cli|seft_ports|tests)/[\w/.]+)`", pages))
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_templates_of_issues_have_their_front_matter():
    # GitHub shows a reflowed front matter as text, and the template cannot be chosen
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        assert re.match(r"---\nname: \S[^\n]*\nabout: \S[^\n]*\n---\n\n", path.read_text(encoding="utf-8")), path


def test_hooks_run_modules_and_programs_that_are_there():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert len(re.findall("entry: ", hooks)) >= 5
    for program, module in re.findall(r"entry: \.venv/bin/(\S+)(?: -m (\S+))?", hooks):
        assert module or shutil.which(program, path=str(Path(sys.executable).parent)), program
        assert not module or find_spec(module), module


def test_layout_contracts_and_tree_have_the_same_rooms():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    (layout,) = re.findall(r"```\n(SPEC\.md .*?)```", page, re.DOTALL)
    lines = [re.findall(r"(\w+)(?:/|\.py)(?=\s|$)", line) for line in layout.splitlines() if line.startswith("  ")]
    (floors,) = (c for c in SETTINGS["tool"]["importlinter"]["contracts"] if c["name"] == "floors of the engine")
    assert lines == [floor.split(" | ") for floor in floors["layers"]]
    tree = {path.stem for path in (ROOT / "seft_ref").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {room for line in lines for room in line} == tree - {"__init__", "__pycache__"}
    named = set(re.findall(r"^(\w+)/", layout, re.MULTILINE))
    folders = subprocess.run(["git", "ls-files", "--", "*/*"], cwd=ROOT, capture_output=True, text=True, check=False)
    if folders.returncode == 0:  # a copy without git has no list of files
        assert named == {line.split("/")[0] for line in folders.stdout.splitlines()} - {".ci", ".github"}


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_file_is_longer_than_two_things():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(*PACKAGES, *DESK)
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def reads_scope(tree):
    """Return whether code reads a rule's `scope`, as an attribute or by its name."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "scope")
        or (isinstance(node, ast.Constant) and node.value == "scope")
        for node in ast.walk(tree)
    )


def test_EVT_009_one_file_reads_scope_and_everything_else_asks_the_rule_or_its_pools():
    # not these: they write and read the scope of a pruner in the record of pruning (PRN-008), not that of a rule
    pruners = [ROOT / "seft_ref" / name for name in ("runs/prune.py", "runs/prune_again.py", "prune/record.py")]
    found = [p for p in sources("seft_ref") if p not in pruners and reads_scope(tree_of(p))]
    assert found == [ROOT / "seft_ref" / "update" / "rules.py"]


@pytest.mark.parametrize("line", ['rule.scope == "row"', "WIDTH[rule.scope]", 'wanted.get("scope") != "group"'])
def test_the_look_for_scope_finds_it(line):
    assert reads_scope(ast.parse(line))
    assert not reads_scope(ast.parse(line.replace("scope", "grow_scope")))


def public_functions(tree, inside=""):
    """Yield every function and method whose name, and whose class's name, is public."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield inside + node.name, node


def constructors(tree):
    """Yield the `__init__` of every public class; these need no docstring."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.__init__", f) for f in node.body if getattr(f, "name", "") == "__init__")


def test_every_public_function_has_a_docstring():
    bare = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("seft_ref")
        for name, node in public_functions(tree_of(path))
        if not ast.get_docstring(node)
    ]
    assert bare == []


LOOPS = {
    f"kernels/cpu/{name}.py" for name in ("panels", "turned", "columns", "exceeding", "transpose", "emitter", "vectors")
}
LOOPS |= {f"kernels/cpu/{name}.py" for name in ("token", "tile_loops", "tile_rows")}
LOOPS |= {f"kernels/cpu/decode{part}.py" for part in ("", "_row", "_spread", "_deposit")}
LOOPS |= {f"layers/compiled/{name}.py" for name in ("exp", "sums", "rows")}
"""Files whose functions numba compiles or emits, so that their types are numba's and not Python's."""


def annotations(function):
    """Return the annotations of a function's parameters and of its result."""
    given = function.args
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
    return [a.annotation for a in every if a and a.annotation] + ([function.returns] if function.returns else [])


def test_no_public_signature_says_any_but_through_the_names_of_arrays_of_another_library():
    loose = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("seft_ref")
        if path.relative_to(ROOT / "seft_ref").as_posix() not in LOOPS
        for name, function in (*public_functions(tree_of(path)), *constructors(tree_of(path)))
        if any(re.search(r"\bAny\b", ast.unparse(annotation)) for annotation in annotations(function))
    ]
    assert loose == []
    assert all((ROOT / "seft_ref" / loop).is_file() for loop in LOOPS)


def test_every_module_and_public_class_has_a_docstring():
    bare = []
    for path in sources("seft_ref"):
        tree = tree_of(path)
        nodes = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]
        bare += [f"{path.relative_to(ROOT)}: {getattr(n, 'name', '')}" for n in nodes if not ast.get_docstring(n)]
    assert bare == []


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, modules):
    """Yield those of `modules` that a file imports, also inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # a name is a module of the package, or an object that the package itself defines
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in full]
        else:
            continue
        yield from (name for name in names if name in modules)


def cycle_in(graph):
    """Return a cycle of a graph as a list of its nodes, or None."""
    state = {}

    def visit(node, path):
        state[node] = "open"
        for to in sorted(graph[node]):
            if state.get(to) == "open":
                return [*path[path.index(to) :], to]
            if to not in state and (found := visit(to, [*path, to])):
                return found
        state[node] = "done"
        return None

    return next((found for node in sorted(graph) if node not in state and (found := visit(node, [node]))), None)


def test_no_cycles_of_imports():
    modules = {module_name(path): path for path in sources(*PACKAGES)}
    graph = {name: set(imports_of(path, modules)) - {name} for name, path in modules.items()}
    assert cycle_in(graph) is None
    assert sum(map(len, graph.values())) > 50


def test_the_search_for_cycles_finds_one():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_every_docstring_says_something():
    silent = []
    for path in sources(*PACKAGES, *DESK):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text is not None and not re.search(r"[A-Za-z]{2}", text):
                    silent.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}")
    assert silent == []


VERB = re.compile(r"\b(?:are|be|can|cannot|do|have|is|may|must|was|were|will|[a-z]{2,}(?:s|ed|ld))\b")
"""A word that looks like a finite verb. Plural nouns match too, so some riddles pass, but no sentence fails."""


def comments(text):
    """Yield (first line, comment) for each comment on lines of its own; consecutive lines are joined."""
    for block in re.finditer(r"(?:^[ ]*# .*\n)+", text, re.MULTILINE):
        lines = (line.lstrip("# ") for line in block[0].splitlines())
        yield text.count("\n", 0, block.start()) + 1, " ".join(lines)


def without_verb(comment):
    """Return the sentences without a verb in a comment, if it has more than two sentences."""
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", comment)
    return [one for one in sentences if not VERB.search(one)] if len(sentences) > 2 else []


def test_a_long_comment_is_made_of_sentences():
    riddles = [
        f"{path.relative_to(ROOT)}:{line}: {sentence}"
        for path in sources(*PACKAGES)
        for line, comment in comments(path.read_text(encoding="utf-8"))
        for sentence in without_verb(comment)
    ]
    assert riddles == []


def test_the_look_for_verbs_finds_a_riddle():
    text = "x = 1  # none\n# The first half holds sums. It ends\n# early. Of a column, two on: nothing.\n"
    assert [(line, without_verb(comment)) for line, comment in comments(text) if without_verb(comment)] == [
        (2, ["Of a column, two on: nothing."])
    ]
