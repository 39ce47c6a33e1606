"""The layers only point down, and Hydra stays where the configuration is made."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trainer"

# Every module of the package, lowest first; a module imports only from layers below its own.
LAYERS = [
    {"__init__", "errors", "gpus"},
    {
        "functional",
        "config",
        "preemption",
        "processes",
        "profiling",
        "account",
        "atomic",
        "batch",
        "background",
        "card",
        "committed",
        "compiler",
        "confusion",
        "pictures",
        "deadline",
        "digest",
        "meter",
        "opaque",
        "paths",
        "standalone",
        "transfer",
        "leaving",
        "slurm",
        "sweep",
        "tensorboardx",
        "training_status",
    },
    {"topology", "confusion_picture", "meaning"},
    {"rendezvous_server"},
    {"rendezvous"},
    {
        "cluster",
        "mesh",
        "idx",
        "images",
        "download",
        "mnist_5k",
        "environment",
        "laps",
        "memory",
        "metrics_log",
        "tensorboard_summaries",
        "terminal",
        "rundir",
        "saved",
        "lock",
        "peers",
        "watchdog",
        "event_files",
        "bundle",
    },
    {"datasets", "model", "ranking", "reports"},
    {"stream", "member_folder", "sweep_plot", "inventory"},
    {"objective", "sweep_folder"},
    {"gradients"},
    {"step"},
    {"eval_step", "feed"},
    {
        "evaluate",
        "checkpoint",
        "tracking",
        "recipe",
        "program",
        "summary",
        "nonfinite",
        "norms",
        "goodput",
        "trained",
        "tensorboard_layout",
    },
    {"progress", "description", "gallery"},
    {"resume", "pace", "assess", "exporting"},
    {"writer", "onnx_file", "task"},
    {"dashboard", "joining"},
    {"opening"},
    {"loop"},
    {"job", "checks"},
    {"commands"},
    {"__main__"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def modules():
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def name_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imports(module: Path):
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            yield node.module or ""
            if (node.module or "").split(".")[0] == "trainer":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_layer():
    assert {name_of(module) for module in modules()} == set(HEIGHT)


@pytest.mark.parametrize("module", modules(), ids=str)
def test_imports_point_down(module):
    for imported in imports(module):
        if imported.startswith("trainer."):
            other = imported.split(".")[1]
            if other != name_of(module):
                assert HEIGHT[other] < HEIGHT[name_of(module)], f"{module} imports {imported}"


def test_no_imports_go_round_in_a_circle():
    files = {".".join(("trainer", *path.with_suffix("").parts)): path for path in modules()}
    graph = {name: {i for i in imports(path) if i in files} for name, path in files.items()}
    assert graph["trainer.commands.multirun"] >= {
        "trainer.commands.plan",
        "trainer.commands.search",
    }
    TopologicalSorter(graph).prepare()  # fails on a cycle, and names it


@pytest.mark.parametrize("module", modules(), ids=str)
def test_hydra_stays_in_the_configuration_and_the_commands(module):
    if name_of(module) not in ("config", "commands"):
        assert not {i.split(".")[0] for i in imports(module)} & {"hydra", "omegaconf"}


def test_the_functional_layer_imports_nothing_of_ours():
    for module in modules():
        if name_of(module) == "functional":
            assert not [i for i in imports(module) if i.startswith("trainer.")]
