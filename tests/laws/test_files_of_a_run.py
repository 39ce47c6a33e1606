"""The files of a run have their shapes, hold no secret, and say with which data it was trained."""

import json

import pytest
from support import in_process
from support.complete_run import COMMANDS, JOB, record_of

from trainer.checkpoint import checksums
from trainer.job import lock
from trainer.job.files import Damaged, parse
from trainer.tracking import environment, goodput, metrics, summary, tensorboard

pytestmark = [
    pytest.mark.slow,  # files of JSON: on one Python only
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("read_once"),
]

SHAPES = {  # file -> its shape, and keys without which it is of no use
    "summary.json": (summary.SHAPE, ()),
    "environment.json": (environment.SHAPE, ()),
    "goodput.json": (goodput.SHAPE, ()),
    "run.lock": (lock.NOTE, ("host", "pid", "since")),
    "metrics.jsonl": (metrics.SHAPE, ("step", "split", "time")),
    "record.json": (checksums.RECORD, ("step", "meaning", "config", "versions")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_as_it_was_written_has_its_shape_and_no_other(pristine, name):
    shape, needed = SHAPES[name]
    path = record_of(pristine) if name == "record.json" else pristine / name
    written = json.loads(path.read_text().splitlines()[0] if "jsonl" in name else path.read_text())
    fits = parse(json.dumps(written).encode(), shape, name)
    assert fits.keys() == written.keys()
    wrong = [{k: v for k, v in written.items() if k != key} for key in needed]
    for key in [key.rstrip("?*") for key in shape if key.rstrip("?*") in written]:
        wrong += [{**written, key: bad} for bad in (10**400, [[{}]])]
    for value in wrong:
        with pytest.raises(Damaged, match=f"^{name} is not as it was written: "):
            parse(json.dumps(value).encode(), shape, name)


SECRET = "s3cr3t-of-the-mirror"


def test_no_file_of_a_run_holds_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_STORE_TOKEN", SECRET)
    monkeypatch.setattr("sys.orig_argv", ["python", f"hub.api_key={SECRET}"])
    mirror = f"data.mirrors=['https://host.example/x?a=1&token={SECRET}&b=2']"
    done = in_process.train(tmp_path, *JOB, "train.epochs=1", mirror)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    kept = {path.name for path in files if b"token=***" in path.read_bytes()}
    assert {"config.yaml", "overrides.yaml", "record.json"} <= kept
    assert any(name.startswith("events") for name in kept)
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["environment"]["JAX_STORE_TOKEN"] == "***"
    done = in_process.train(tmp_path, *JOB, "train.epochs=1", mirror)
    assert done.returncode == 0, done.stderr


def test_a_run_with_fewer_digits_than_asked_for_is_marked(tmp_path):
    job = [*JOB, "train.epochs=1", "data=mnist", f"data.cache_dir={tmp_path / 'none'}"]
    done = in_process.train(tmp_path, *job, "data.download=false", "data.offline_fallback=true")
    assert done.returncode == 0, done.stderr
    assert in_process.summary_of(tmp_path)["fallback_from"] == "mnist"
    (info,) = json.loads(COMMANDS["runs"](tmp_path / "run").stderr)["runs"]
    assert info["note"] == "not with mnist: trained on mnist_5k"
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    names = [
        item.metadata.plugin_data.content
        for _, event in tensorboard._records(events.read_bytes())
        for item in event.summary.value
        if item.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert any(b"data.name" in content and b"mnist_5k" in content for content in names)
