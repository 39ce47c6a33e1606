"""A user's file: its options have types, and whatever is wrong with it is named, with its line."""

import sys
import textwrap
from enum import Enum

import pytest
from omegaconf import OmegaConf
from support.trained_runs import train_here

from trainer.config.compose import compose
from trainer.config.fingerprint import fingerprint
from trainer.job.errors import ConfigError

OPTIONS = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    from enum import Enum

    class Norm(Enum):
        layer = "layer"
        none = "none"

    @dataclass
    class Block:
        width: int = 8

    @dataclass(frozen=True)
    class Options:
        width: int = 32
        rate: float = 0.1
        sizes: list[int] = field(default_factory=lambda: [1, 2])
        norm: Norm = Norm.layer
        block: Block = field(default_factory=Block)
        steps: int | None = None
        kernel: tuple[int, int] = (3, 3)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the current folder; return its name. sys.path stays as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write


def composed(module, *options):
    given = [f"model.options.{option}" for option in options]
    return compose(["data=mnist_5k", "model=module", f"model.module={module}", *given])[0]


def message_of(module, *options):
    with pytest.raises(ConfigError) as raised:
        composed(module, *options)
    assert raised.value.exit_code == 78
    return str(raised.value)


def test_options_have_the_types_and_defaults_of_the_dataclass(write):
    given = ("width=64", "sizes=[3]", "norm=none", "block.width=4", "rate=1", "kernel=[5,1]")
    job = composed(write(OPTIONS), *given)
    options = job.config.model.options
    assert type(options).__name__ == "Options"
    assert (options.width, options.sizes, options.rate) == (64, [3], 1.0)
    assert isinstance(options.rate, float)
    assert isinstance(options.norm, Enum)
    assert options.norm.value == "none"
    assert type(options.block).__name__ == "Block"
    assert (options.block.width, options.steps, options.kernel) == (4, None, (5, 1))
    assert composed("mine.py").config.model.options.kernel == (3, 3)
    kept = OmegaConf.create(job.record["config.yaml"]).model
    assert kept.options.width == 64
    assert kept.options.steps is None
    assert job.record["mine.py"] == textwrap.dedent(OPTIONS)  # the run keeps a copy


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wdith=3", "model.options.wdith is not an option of mine.py: did you mean width?"),
        ("xyz=3", "model.options.xyz is not an option of mine.py: mine.py has width, rate, sizes"),
        ("width=abc", "model.options.width=abc: use a whole number"),
        ("width=1.5", "model.options.width=1.5: use a whole number"),
        ("width=null", "model.options.width=None: it needs a value"),
        ("rate=x", "model.options.rate=x: use a number"),
        ("sizes=3", "model.options.sizes=3: use a list"),
        ("sizes=[a]", "model.options.sizes[0]=a: use a whole number"),
        ("block.width=x", "model.options.block.width=x: use a whole number"),
        ("block.depth=1", "model.options.block.depth=1: Key 'depth' not in 'Block'"),
        ("norm=batch", "model.options.norm=batch: Invalid value 'batch', expected one of [layer"),
    ],
)
def test_a_wrong_option_is_named_with_its_rule(write, given, message):
    assert message in message_of(write(OPTIONS), given)


def test_an_option_without_a_default_needs_a_value(write):
    name = write("""
        from dataclasses import dataclass
        @dataclass
        class Options:
            width: int
    """)
    assert message_of(name) == "model.options.width needs a value: mine.py gives it none"
    assert composed(name, "width=3").config.model.options.width == 3


def test_a_type_that_options_cannot_have(write):
    name = write("""
        from dataclasses import dataclass
        from typing import Literal
        @dataclass
        class Options:
            norm: Literal["layer", "none"] = "layer"
    """)
    assert message_of(name).startswith("model.options.norm: use int, float, bool, str, an Enum")


def test_a_file_without_options_takes_none(write):
    assert composed(write("")).config.model.options == {}
    expected = "model.options: mine.py has no dataclass Options: write @dataclass class Options"
    assert message_of("mine.py", "width=3").startswith(expected)
    plain = write("class Options:\n    width = 3\n", "plain.py")
    assert "plain.py does not make a dataclass of Options" in message_of(plain)


def test_a_rule_of_the_users_own_is_shown_with_its_line(write, tmp_path):
    name = write("""
        from dataclasses import dataclass
        @dataclass
        class Options:
            width: int = 3
            def __post_init__(self):
                assert self.width % 2, "use an odd width"
    """)
    message, line = message_of(name, "width=4").splitlines()
    assert message.endswith("AssertionError: use an odd width")
    assert line == f'  {tmp_path}/mine.py:7: assert self.width % 2, "use an odd width"'


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("import os\n\ndef fwd(:\n", "SyntaxError: invalid syntax", "3: def fwd(:"),
        ("import os\nX = 1 / 0\n", "ZeroDivisionError: division by zero", "2: X = 1 / 0"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'", "1: import nowhere"),
        ("raise SystemExit(2)\n", "SystemExit: 2", "1: raise SystemExit(2)"),
        ("\n\nraise ValueError\n", "ValueError: no message", "3: raise ValueError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(write, tmp_path, text, error, line):
    for _ in range(2):  # a half imported module is not taken for a good one
        first, *where = message_of(write(text)).splitlines()
        assert first.startswith(f"model.module=mine.py: {error}")
        assert where == [f"  {tmp_path}/mine.py:{line}"]


def test_an_error_in_a_file_beside_it_is_shown_with_both_lines(write, tmp_path):
    write("def f():\n    return {}['width']\n", "beside.py")
    _, *where = message_of(write("import beside\n\nbeside.f()\n")).splitlines()
    lines = ("mine.py:3: beside.f()", "beside.py:2: return {}['width']")
    assert where == [f"  {tmp_path}/{line}" for line in lines]


def test_there_is_no_such_file_or_module(write, tmp_path):
    gone = f"model.module=gone.py: there is no such file: it would be {tmp_path}/gone.py"
    assert message_of("gone.py") == gone
    (tmp_path / "folder").mkdir()
    for name in ("my.gone", "gone", "folder", ""):
        message = message_of(name)
        assert message.startswith(f"model.module={name}: there is no such module: give the file")
    (tmp_path / "broken").mkdir()
    write("1 / 0\n", "broken/__init__.py")
    assert message_of("broken.model").startswith("model.module=broken.model: ZeroDivisionError")


def test_the_name_may_be_a_file_anywhere_or_a_dotted_name(write, tmp_path):
    write(OPTIONS, "numpy.py")  # called like a package
    (tmp_path / "a folder=x").mkdir()
    write(OPTIONS, "a folder=x/it's.py")
    (tmp_path / "mypackage").mkdir()
    write("", "mypackage/__init__.py")
    write("from .other import Options\n", "mypackage/model.py")
    write(OPTIONS, "mypackage/other.py")
    for name in ("numpy.py", f"{tmp_path}/numpy.py", "a folder=x/it's.py", "mypackage.model"):
        assert composed(name, "width=5").config.model.options.width == 5


def test_a_module_is_given_where_and_only_where_it_is_needed(write):
    name = write(OPTIONS)
    for arguments, message in (
        (["model=module"], "model.module=None: model=module needs it, like model.module=FILE"),
        ([f"model.module={name}"], "model.module=mine.py: only model=module has it: choose that"),
        (["data=module"], "data.module=None: data=module needs it, like data.module=FILE.py"),
        (["model.options.width=3"], "model.options={'width': 3}: only model=module has it"),
        (
            ["model=module", f"model.module={name}", "model.hidden_sizes=[3]"],
            "model.hidden_sizes=[3]: only model=mlp has it: choose that",
        ),
    ):
        with pytest.raises(ConfigError) as raised:
            compose(arguments)
        assert message in str(raised.value)
    (job,) = compose(["+experiment=smoke", "model=module", f"model.module={name}"])
    assert job.config.model.hidden_sizes is None  # smoke has sizes for the MLP
    (job,) = compose(["+experiment=mlp_notebook", "optim=adam"])
    assert job.config.optim.momentum is None


def test_one_file_may_have_the_model_and_the_data(write):
    name = write("""
        from dataclasses import dataclass
        @dataclass
        class Options:
            width: int = 3
        @dataclass
        class DataOptions:
            examples: int = 5
    """)
    both = ("model=module", f"model.module={name}", "data=module", f"data.module={name}")
    (job,) = compose([*both, "data.options.examples=7", "model.options.width=4"])
    assert (job.config.model.options.width, job.config.data.options.examples) == (4, 7)
    with pytest.raises(ConfigError, match=r"data\.options\.width is not an option of mine\.py"):
        compose([*both, "data.options.width=7"])


def test_two_files_of_one_name_are_both_kept(write, tmp_path):
    (tmp_path / "other").mkdir()
    data = write("def load(options): ...", "other/mine.py")
    model = ("model=module", f"model.module={write(OPTIONS)}")
    (job,) = compose([*model, "data=module", f"data.module={data}"])
    assert job.record["mine.py"] == textwrap.dedent(OPTIONS)
    assert job.record["data-mine.py"] == "def load(options): ..."


def test_a_file_may_move_and_its_options_are_in_the_fingerprint(write, tmp_path):
    job = composed(write(OPTIONS), "width=64")
    (tmp_path / "moved").mkdir()
    moved = composed(write(OPTIONS, "moved/mine.py"), "width=64")
    before = fingerprint(job.config, {})
    assert before == fingerprint(moved.config, {})
    assert before["model"]["module"] == "mine.py"
    assert before["model"]["options"]["width"] == 64
    assert before["model"]["options"]["norm"] == "layer"  # JSON
    assert before["model"] != fingerprint(composed("mine.py").config, {})["model"]


def test_the_command_line_ends_with_78_before_it_makes_a_run(write, tmp_path, capfd):
    name = write("X = 1 / 0\n")
    assert train_here("data=mnist_5k", "model=module", f"model.module={name}", "run.dir=run") == 78
    assert not (tmp_path / "run").exists()
