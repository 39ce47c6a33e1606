"""A user's file is found anywhere and kept; what is wrong with it is named, with its line."""

import textwrap
from types import SimpleNamespace

import pytest
from support.trained_runs import train_here
from support.user_files import OPTIONS, composed, message_of

from trainer.config import user_module, user_sources
from trainer.config.compose import compose
from trainer.config.fingerprint import fingerprint
from trainer.job.errors import ConfigError


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
        (["model=module"], "model.module=null: model=module needs it, like model.module=FILE"),
        ([f"model.module={name}"], "model.module=mine.py: only model=module has it: choose that"),
        (["data=module"], "data.module=null: data=module needs it, like data.module=FILE.py"),
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
    assert job.record["data/mine.py"] == "def load(options): ..."


def test_the_files_that_it_imports_are_kept_and_are_its_own(write, tmp_path):
    """Model and data come from two folders, and each has a file `beside` of its own."""
    (tmp_path / "other" / "parts").mkdir(parents=True)
    write("import beside\nload = beside.load\n", "other/mine.py")
    write("from parts import text\ndef load(options): return text.NAME\n", "other/beside.py")
    write("", "other/parts/__init__.py")
    write("NAME = 'of data'\n", "other/parts/text.py")
    write("def unused(): ...\n", "other/parts/more.py")
    own = "import sys, numpy\nfrom trainer import functional\nfrom beside import NAME\n"
    arguments = ["model=module", f"model.module={write(own)}", "data=module"]
    arguments.append("data.module=other/mine.py")
    for text in ("one", "another"):  # as in a notebook, whose files are edited
        write(f"NAME = '{text}'\n", "beside.py")
        (job,) = compose(arguments)
        assert text == user_module.load("model.module", "mine.py").NAME
        assert user_module.load("data.module", "other/mine.py").load(None) == "of data"
        kept = {name for name in job.record if name.endswith(".py")}
        beside = ("beside.py", "mine.py", "parts/__init__.py", "parts/text.py")
        assert kept == {"mine.py", "beside.py", *(f"data/{name}" for name in beside)}
        assert job.record["beside.py"] == f"NAME = '{text}'\n"


def test_of_a_package_the_files_that_a_module_imports_are_kept(write, tmp_path):
    (tmp_path / "package").mkdir()
    for name, text in (("__init__", ""), ("layers", "from . import sizes"), ("sizes", "A = 1")):
        write(text, f"package/{name}.py")
    write("from package.layers import sizes\n", "package/model.py")
    kept = composed("package.model").record
    names = ("model", "__init__", "layers", "sizes")
    assert [name for name in kept if name.endswith(".py")] == [f"package/{n}.py" for n in names]


def test_the_files_of_a_script_that_gives_itself_to_fit(write, tmp_path):
    write("NAME = 1\n", "beside.py")
    script = SimpleNamespace(__name__="__main__", __file__=str(tmp_path / write("import beside\n")))
    assert list(user_sources.sources(script)) == ["mine.py", "beside.py"]


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
