"""The task of a user's module."""

import itertools

import pytest
from support.user_modules import EXAMPLE

from trainer.config import user_module
from trainer.tasks import module

numbers = itertools.count()


@pytest.fixture
def made(tmp_path):
    """Make the task of a text, in a file of its own, `made.name`."""

    def make(text, options=None, example=EXAMPLE):
        path = tmp_path / f"mine{next(numbers)}.py"
        make.name = path.name
        path.write_text(text)
        own = user_module.load("model.module", str(path))
        return module.make(own, {} if options is None else options, example)

    return make
