"""Loads data sets of the tests, from folders and from a server."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
from support.small_mnist import DIGESTS, MNIST, write

from trainer.config.compose import compose
from trainer.config.schema import DataConfig
from trainer.data.report import Report
from trainer.sources import load as kinds
from trainer.sources import mnist


@pytest.fixture
def load(tmp_path):
    """Return load(name, **options), with what it warned of in load.warnings."""
    warnings = []

    def load(name="mnist", poll=lambda: None, **changes):
        options = {
            **MNIST,
            "name": name,
            "cache_dir": str(tmp_path / "cache"),
            "mirrors": [],
            "sha256": DIGESTS,
            **{
                key: str(value) if isinstance(value, Path) else value
                for key, value in changes.items()
            },
        }
        return mnist.load(DataConfig(**options), Report(lambda *_: None, poll, warnings.append))

    load.warnings = warnings
    return load


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The address of a server of the four files, which lie in tmp_path/mirror."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=write(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def loaded(tmp_path):
    """Load tmp_path/data; loaded.warnings has the warnings, loaded.reports the progress."""
    loaded_warnings, reports = [], []

    def loaded(*options, root=tmp_path / "data"):
        job = [f"data.root={root}", *options, f"data.cache_dir={tmp_path}/cache"]
        (made,) = compose([*job, "data.validation_fraction=0"])
        show = Report(lambda *report: reports.append(report), lambda: None, loaded_warnings.append)
        return kinds.load(made.config.data, show)

    loaded.warnings, loaded.reports = loaded_warnings, reports
    return loaded
