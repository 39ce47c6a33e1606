"""What a command can do without is no reason to refuse the work."""

import os
import sys
import warnings

import jax
import numpy as np
import pytest

from trainer.commands import COMMANDS
from trainer.config.compose import compose
from trainer.distributed import connect
from trainer.formats import idx

SMALL = ("+experiment=smoke", "train.epochs=1", "model.hidden_sizes=[8]", "run.name=a")
RUN = "a finished run"
WORK = {
    "train": SMALL,
    "new": ("project",),
    "runs": (RUN,),
    "evaluate": (RUN,),
    "predict": (RUN, "digits"),
    "export": (RUN, "exported"),
    "verify": (RUN,),
    "doctor": SMALL,
    "plan": SMALL,
    "submit": ("slurm", "--dry-run", *SMALL),
}
# They train, as `train` does, or become TensorBoard.
LIKE_OTHERS = {"local", "sweep", "selftest", "laws", "dashboard"}


@pytest.mark.parametrize("command", WORK)
def test_a_bare_machine_is_enough(trainer, tmp_path, smoke_run, command):
    """No home folder, no git, no folder for temporary files, a locale and terminal of no name."""
    assert {*COMMANDS} <= {*WORK, *LIKE_OTHERS}
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    (tmp_path / "digits").write_bytes(idx.header(images.shape) + images.tobytes())
    (tmp_path / "no-programs").mkdir()
    bare = {"HOME": "/proc", "TRAINER_CACHE_DIR": "", "TMPDIR": "/nonexistent"}
    bare |= {"PATH": str(tmp_path / "no-programs"), "LANG": "xx_XX", "LC_ALL": "xx_XX"}
    bare |= {"TERM": "nothing", "TRAINER_VENV": sys.prefix}
    words = [str(smoke_run) if word == RUN else word for word in WORK[command]]
    done = trainer(*([] if command == "train" else [command]), *words, **bare)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Traceback" not in output
    messages = [line for line in output.splitlines() if "warn" in line.lower()]
    trains = command in ("train", "doctor", "plan")
    assert len(messages) == (1 if trains else 0), output
    assert all("compilation" in line for line in messages), output


def another_users(folder):
    folder.mkdir(mode=0o777)
    os.chown(folder, 12345, 12345)


def open_to_all(folder):
    folder.mkdir()
    folder.chmod(0o777)


OPTIONS = (
    *("jax_threefry_partitionable", "jax_default_prng_impl", "jax_compilation_cache_dir"),
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
CACHES = {
    "belongs to another user (uid 12345)": another_users,
    "can be written by others": open_to_all,
    "cannot be written (File exists)": lambda folder: folder.write_text("a file"),
    "cannot be written (Not a directory)": lambda folder: folder.parent.write_text("a file"),
}


@pytest.fixture
def configured():
    """Return a function that configures jax, and returns the warnings and the folder it uses."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    run = compose(["+experiment=smoke"])[0].config.run

    def configure(cache):
        messages = []
        jax.config.update("jax_compilation_cache_dir", None)
        connect.configure(run, str(cache), messages.append)
        return messages, jax.config.values["jax_compilation_cache_dir"]

    yield configure
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
@pytest.mark.parametrize("problem", CACHES)
def test_a_cache_that_cannot_be_trusted_is_not_used(tmp_path, configured, problem):
    cache = tmp_path / "shared" / "xla"
    if "Not a" not in problem:
        cache.parent.mkdir()
    CACHES[problem](cache)
    (warning,), used = configured(cache)
    assert warning.startswith(f"train.compilation_cache_dir={cache} {problem}")
    assert used is None


def test_a_private_cache_is_used(tmp_path, configured):
    cache = tmp_path / "new" / "xla"
    assert configured(cache) == configured(cache) == ([], str(cache))
    assert cache.stat().st_mode & 0o777 == 0o700


def test_half_a_compiled_program_is_replaced_with_a_warning(trainer, tmp_path):
    def start(run):
        words = ("+experiment=smoke", "train.pictures_every_epochs=null", f"run.dir={run}")
        done = trainer(*words, TRAINER_CACHE_DIR=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        assert "UserWarning" not in done.stderr
        return done.stderr

    assert "warning" not in start("first")
    folder = tmp_path / "cache" / "xla"
    for program in folder.glob("jit_test_all-*-cache"):
        os.truncate(program, 1000)  # as a full disk or a power cut leaves it
    assert f"warning: {folder}: a program cannot be read" in start("second")
    assert "warning" not in start("third")


def test_a_cache_on_a_full_disk_is_one_warning(tmp_path, configured):
    reason = "OSError: [Errno 28] No space left on device"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        messages, used = configured(tmp_path / "xla")
        for name in ("jit_steps", "jit_test_all"):  # in jax's words
            text = f"'{name}': OSError: [Errno 28] No space left on device"
            warnings.warn(
                f"Error writing persistent compilation cache entry for {text}", stacklevel=1
            )
    reason = "OSError: [Errno 28] No space left on device"
    assert messages == [f"{used} cannot be written ({reason}): the next start compiles again"]
