"""Packages only import downward, and Hydra stays where the configuration is made."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "trainer"

# Lowest first: a module imports from its own package and from those before it.
ORDER = (
    *("functional", "job", "config", "data", "formats", "sources"),
    *("optimizers", "tracking", "tasks"),
    *("checkpoint", "parallel", "distributed", "dashboard", "train", "commands"),
    *("export", "sweep", "doctor", "plan", "selftest", "submit", "api", "new"),
)
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
FLAT = {Path("__init__.py"), Path("__main__.py")}


def imports(module: Path):
    """Yield the dotted names that a module imports."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_in_a_package_of_the_order():
    assert {path.parts[0] for path in MODULES if path not in FLAT} == set(ORDER)


@pytest.mark.parametrize("module", [path for path in MODULES if path not in FLAT], ids=str)
def test_imports_point_down(module):
    allowed = ORDER[: ORDER.index(module.parts[0]) + 1]
    for name in imports(module):
        if name.startswith("trainer."):
            package = name.split(".")[1]
            assert package in allowed or package not in ORDER, f"{module} imports {name}"


def test_no_imports_go_round_in_a_circle():
    files = {".".join(("trainer", *path.with_suffix("").parts)): path for path in MODULES}
    graph = {name: {i for i in imports(path) if i in files} for name, path in files.items()}
    assert "trainer.parallel.step" in graph["trainer.train.loop"]
    TopologicalSorter(graph).prepare()  # fails on a cycle, and names it


@pytest.mark.parametrize("package", ORDER)
def test_a_package_has_at_most_nine_modules(package):
    modules = [path for path in (PACKAGE / package).glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(modules) <= 9


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_hydra_stays_in_the_configuration_and_the_sweeps(module):
    if module.parts[0] not in ("config", "sweep"):
        assert not {i.split(".")[0] for i in imports(module)} & {"hydra", "omegaconf"}


def test_functional_imports_nothing_else_of_ours():
    for module in MODULES:
        if module.parts[0] == "functional":
            ours = [name for name in imports(module) if name.startswith("trainer.")]
            assert all(name.startswith("trainer.functional") for name in ours)
