"""What process 0 writes: how saves that fail are counted, reported and survived."""

import dataclasses
import json
import re
import time
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.harm import files_of_at_most
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.checkpoint import checksums, files
from trainer.checkpoint.store import Best, Checkpoints
from trainer.config.compose import compose
from trainer.job.errors import SaveError
from trainer.parallel.memory import room_for
from trainer.tracking.goodput import PhaseTimer
from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal
from trainer.train.writer import Writer

# 4 MB, that do not compress
STATE = {"weights": jax.random.bits(jax.random.key(0), (1_000_000,))}


@pytest.fixture
def opened(tmp_path):
    @contextmanager
    def opener(limit, keep_last=3):
        warn = Terminal().warn
        with (
            Checkpoints(
                tmp_path / "checkpoints",
                keep_last=keep_last,
                keep_best=1,
                best=Best("loss", largest=False),
                warn=warn,
            ) as checkpoints,
            Tracker(tmp_path, None, warn) as tracker,
            Writer(
                checkpoints,
                {},
                flush=tracker.flush,
                max_failed_saves=limit,
                timer=PhaseTimer(),
                warn=warn,
            ) as writer,
        ):
            writer.tracker = tracker
            yield writer

    return opener


def full_disk():
    """The arrays cannot be written, which only the thread learns."""
    return files_of_at_most(1_000_000)


def failures(capsys):
    return re.findall(r"\(failure (\d+) in a row, (\d+) are tolerated\)", capsys.readouterr().err)


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_failed_saves_in_a_row_are_counted_and_each_is_tried(opened, capsys, limit):
    with opened(limit) as writer:
        writer.save(1, STATE, {}, None)
        writer.finish()
        with full_disk():
            for step in range(2, limit + 3):
                assert not writer.failing()
                writer.save(step, STATE, {}, None)
            with pytest.raises(SaveError, match="File too large"):
                writer.finish()
        assert writer.failing()
        assert failures(capsys) == [(str(n + 1), str(limit)) for n in range(limit + 1)]
        assert writer.checkpoints.steps == [1]


def test_a_failure_is_noticed_without_another_save(opened):
    with opened(0) as writer, full_disk():
        writer.save(1, STATE, {}, None)
        deadline = time.monotonic() + 240
        while not writer.failing():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_no_point_before_a_checkpoint_can_get_lost_after_it(opened, tmp_path):
    with opened(0) as writer:
        for step in (1, 2):
            writer.tracker.scalars("train", step, {"loss": 0.5})
        writer.save(2, STATE, {}, None)
        writer.finish()
        # Read while both files are open: what a killed process would leave.
        read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [point.step for point in read.Scalars("train/loss")] == [1, 2]
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_save_that_succeeds_ends_the_count(opened, capsys):
    with opened(1) as writer:
        for step in (1, 3):
            with full_disk():
                writer.save(step, STATE, {}, None)
                with pytest.raises(SaveError, match="the last checkpoint is not written"):
                    writer.finish()
            writer.save(step + 1, STATE, {}, None)
            writer.finish()
        assert writer.checkpoints.steps == [2, 4]
    assert failures(capsys) == [("1", "1"), ("1", "1")]


def test_a_save_counts_where_older_checkpoints_cannot_be_deleted(opened, tmp_path, capsys):
    with opened(0, keep_last=1) as writer:
        writer.save(1, STATE, {}, None)
        writer.finish()
        (tmp_path / "checkpoints" / "trash-1" / "in the way").mkdir(parents=True)
        writer.save(2, STATE, {}, None)
        writer.finish()
        assert not writer.failing()
        assert writer.checkpoints.steps == [1, 2]
    message = capsys.readouterr().err
    assert "checkpoints/2 is saved, but older ones cannot be deleted" in message
    assert "Directory not empty" in message
    assert "cannot be written" not in message


def test_what_ends_a_run_does_not_lose_the_save_under_way(opened, tmp_path):
    def end():
        with opened(0) as writer:
            writer.save(7, STATE, {}, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end()
    files.opened(tmp_path / "checkpoints" / "7", {})


@pytest.mark.parametrize("on_device", [True, False])
def test_a_state_that_is_donated_meanwhile_is_saved(opened, on_device):
    state = jax.tree.map(jnp.copy, STATE)
    with opened(0) as writer:
        if not on_device:  # as where its memory is too small for a copy
            writer._copy_on_device = []
        writer.save(3, state, {}, None)
        jax.tree.map(lambda leaf: leaf.delete(), state)
        writer.finish()
        restored = writer.checkpoints.restore(STATE)
    jax.tree.map(np.testing.assert_array_equal, restored.state, STATE)


def test_a_device_has_room_for_what_it_has_never_needed():
    counted = {"bytes_limit": 100, "peak_bytes_in_use": 70}

    def has_room(size, statistics):
        device = SimpleNamespace(memory_stats=lambda: statistics)
        return room_for([SimpleNamespace(nbytes=size, devices=lambda: [device])])

    assert has_room(30, counted)
    assert not has_room(31, counted)
    assert has_room(1 << 40, None)  # a CPU does not count


def test_the_record_tells_the_configuration_and_its_digest(smoke_run):
    record = files.opened(smoke_run / "checkpoints" / "114").record
    (job,) = compose(["+experiment=smoke", "run.dir=smoke"])
    config = json.loads(json.dumps(dataclasses.asdict(job.config)))
    for cache in ("cache_dir", "compilation_cache_dir"):  # of the machine
        for section in (record["config"], config):
            section["data"].pop(cache, None), section["train"].pop(cache, None)
    assert record["config"] == config
    assert record["config_sha256"] == checksums.of_json(
        files.opened(smoke_run / "checkpoints" / "114").record["config"]
    )
    assert record["versions"]["jax"]
