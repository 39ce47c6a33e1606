import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import redact
from trainer.tracking import environment


def git(*arguments, cwd):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_the_facts_are_json(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "https://me:hidden-too@host/x")
    monkeypatch.setenv("MY_API_KEY", "hidden-value")
    facts = environment.collect(["gpu H100", "gpu H100"], processes=2)
    text = json.dumps(facts, allow_nan=False)
    assert facts["devices"] == ["gpu H100", "gpu H100"]
    assert facts["processes"] == 2
    assert facts["versions"]["python"].startswith("3.")
    assert all(facts["versions"][name] for name in ("trainer", "jax", "jaxlib", "numpy", "grain"))
    assert facts["environment"]["SLURM_JOB_ID"] == "17"
    assert facts["environment"]["JAX_COMPILATION_CACHE_DIR"] == "https://***@host/x"
    assert facts["memory_bytes"] > 2**20
    assert 1 <= facts["cpu"]["usable"] <= facts["cpu"]["count"]
    assert "hidden-value" not in text
    assert "hidden-too" not in text


def test_it_imports_none_of_what_it_asks_for():
    code = (
        "import sys; from trainer.tracking.environment import collect; collect([], 1)\n"
        "print({'jax', 'numpy', 'grain', 'tensorboardX', 'orbax'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    assert subprocess.check_output(command, cwd=root, text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("run.dir=runs/a", "run.dir=runs/a"),
        ("checkpoint.keep_last=3", "checkpoint.keep_last=3"),
        ("+hub.api_key=abc", "+hub.api_key=***"),
        ("--password=abc=def", "--password=***"),
        ("HUB_TOKEN=abc,def", "HUB_TOKEN=***"),
        ("x={client_secret: abc, y: 1}", "x={client_secret:***"),
        ("data.mirrors=[https://me:abc@host/x]", "data.mirrors=[https://***@host/x]"),
        ("data.mirrors=[https://host/x?token=abc]", "data.mirrors=[https://host/x?token=***"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(argument, shown):
    assert redact.redact(argument) == shown


def test_options_are_recorded_without_secrets_but_with_all_that_a_model_needs():
    address = "https://me:hidden-too@host/x?a=1&api_key=abc&b=2"
    options = {
        "options": {"token": "abc", "hub_api_key": "abc", "password": "", "tokenizer": "bpe"},
        "mirrors": [address, "https://host/key=1"],
        "key_dim": 64,
        "keys": {"secret": 5},
    }
    assert redact.redacted(options) == {
        "options": {"token": "***", "hub_api_key": "***", "password": "", "tokenizer": "bpe"},
        "mirrors": ["https://***@host/x?a=1&api_key=***&b=2", "https://host/key=1"],
        "key_dim": 64,
        "keys": {"secret": 5},
    }


def test_git_revision_and_whether_files_differ(tmp_path):
    assert environment._git(tmp_path) is None
    git("init", "-q", cwd=tmp_path)
    (tmp_path / "a.py").write_text("1")
    git("add", ".", cwd=tmp_path)
    git("commit", "-qm", "a", cwd=tmp_path)
    revision = git("rev-parse", "HEAD", cwd=tmp_path).strip()
    assert environment._git(tmp_path) == {"revision": revision, "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert environment._git(tmp_path) == {"revision": revision, "dirty": True}
    # Inside a repository, but not a checkout of its own: like site-packages of a venv.
    (tmp_path / "site-packages").mkdir()
    assert environment._git(tmp_path / "site-packages") is None


def test_an_image_tells_its_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_REVISION", "")
    assert environment._git(tmp_path) is None
    monkeypatch.setenv("TRAINER_REVISION", "abc")
    assert environment._git(tmp_path) == {"revision": "abc", "dirty": False}
    monkeypatch.setenv("TRAINER_REVISION", "abc-dirty")
    assert environment._git(tmp_path) == {"revision": "abc", "dirty": True}


def test_git_that_is_missing_or_hangs_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert environment._git(tmp_path) is None  # a broken repository
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._git(tmp_path) is None

    def hang(*_, **options):
        raise subprocess.TimeoutExpired("git", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert environment._git(tmp_path) is None


def test_a_package_that_is_missing_has_no_version():
    assert environment.versions(["no-such-package-of-ours"]) == {"no-such-package-of-ours": None}
