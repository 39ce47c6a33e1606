"""`python -m trainer new DIR` writes a project that trains as it is; the wheel's test trains it."""

import jax
import pytest

from trainer.config import user_module
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.new.command import TEMPLATE, main
from trainer.tasks import module


def test_the_project_is_written_and_its_model_is_a_task(tmp_path, capsys):
    folder = tmp_path / "a b"
    assert main([str(folder)], StopRequest()) == 0
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {"README.md", "conf/experiment/first.yaml", "model.py"}
    out = capsys.readouterr().out
    assert all(f"{folder}/{name}\n" in out for name in written)
    assert f"cd '{folder}' && python -m trainer --config-dir conf +experiment=first" in out
    own = user_module.load("model.module", str(folder / "model.py"))
    options = user_module.options("model.options", own, "Options", {"width": 8})
    example = {
        "image": jax.ShapeDtypeStruct((6, 5), "uint8"),
        "label": jax.ShapeDtypeStruct((), "uint8"),
    }
    task = module.make(own, options, example)
    assert task.metric_names == ("accuracy",)
    assert task.inputs == ("image",)


def test_the_readme_has_the_three_commands():
    text = (TEMPLATE / "README.md").read_text()
    for command in ("trainer --config-dir", "trainer laws --config-dir", "trainer selftest "):
        assert f"    python -m {command}" in text


@pytest.mark.parametrize("taken", [True, False])
def test_a_folder_with_files_is_refused(tmp_path, taken):
    folder = tmp_path / "there"
    if taken:
        folder.mkdir()
        (folder / "model.py").touch()
    else:
        folder.touch()
    with pytest.raises(ConfigError, match="there is not empty: give an empty or a new folder"):
        main([str(folder)], StopRequest())
