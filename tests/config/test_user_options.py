"""The options of a user's file have types and defaults, and a wrong one is named with its rule."""

import textwrap
from enum import Enum

import pytest
from omegaconf import OmegaConf
from support.user_files import OPTIONS, composed, message_of

from trainer.config.compose import compose
from trainer.job.errors import ConfigError


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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.width=3", "model.width is not an option: did you mean model.options.width?"),
        ("+model.block.width=3", "did you mean model.options.block?"),
        ("data.rows=3", "data.rows is not an option: did you mean data.options.rows?"),
        ("model.hidden=3", "model.hidden is not an option: did you mean model.hidden_sizes?"),
    ],
)
def test_an_option_of_the_file_is_found_where_options_is_left_out(write, given, message):
    rows = "\n    @dataclass\n    class DataOptions:\n        rows: int = 1\n"
    modules = (f"{section}.module={write(OPTIONS + rows)}" for section in ("model", "data"))
    with pytest.raises(ConfigError) as raised:
        compose(["model=module", "data=module", *modules, given])
    assert message in str(raised.value)


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
