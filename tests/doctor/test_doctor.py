"""`python -m trainer doctor` on right and wrong set-ups: each finding is a row."""

import shutil
import signal

import jax
import pytest
from support.connected import variables
from support.findings import DOCTOR, table
from support.program import CACHE

from trainer.doctor import command
from trainer.doctor.finding import Finding
from trainer.job.errors import TrainerError
from trainer.job.processes import free_address
from trainer.job.signals import SIGNALS, StopRequest

CONFIGURED = (
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def doctor(monkeypatch, capsys, tmp_path):
    """Runs doctor in this process, which has 8 devices; returns its exit code and its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))
    monkeypatch.setattr(command, "claim_stdout", lambda: None)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    configured = {name: jax.config.values[name] for name in CONFIGURED}

    def run(*arguments):
        code = command.main(arguments, StopRequest())
        return code, capsys.readouterr().out

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name, value in configured.items():
        jax.config.update(name, value)


def test_all_is_well(doctor, tmp_path):
    code, out = doctor(*DOCTOR[1:], "run.root=runs", "parallel.devices=2")
    result = table(out)
    assert code == 0
    assert {finding["level"] for finding in result.values()} == {"ok"}, result
    assert "jax" in result["versions"]["message"]
    assert "no cluster variables" in result["topology"]["message"]
    assert "8 x cpu here, 8 in all" in result["devices"]["message"]
    assert "3,600 train + 400 validation + 1,000 test examples" in result["data"]["message"]
    assert "2.7 MB" in result["all-reduce"]["message"]
    assert "loss" in result["one step"]["message"]
    assert "2 devices" in result["mesh"]["message"]
    assert "MB/s read, locks work" in result["run directory"]["message"]
    assert not list((tmp_path / "runs").iterdir())


def test_a_missing_process_is_named(doctor, monkeypatch):
    for name, value in variables(2, 0, free_address()).items():
        monkeypatch.setenv(name, value)
    code, out = doctor(*DOCTOR[1:], "cluster.startup_timeout_seconds=1")
    assert code == 69
    meeting = table(out)["meeting"]
    assert meeting["level"] == "failure"
    assert "process 1 of 2 did not come" in meeting["message"]


def test_more_devices_than_there_are_is_a_row(doctor):
    code, out = doctor(*DOCTOR[1:], "parallel.devices=9")
    result = table(out)
    assert code == 78
    assert result["mesh"]["message"] == "parallel.devices=9: this process has 8 local devices"
    assert result["mesh"]["hint"].startswith("use at most 8")
    assert result["data"]["level"] == result["run directory"]["level"] == "ok"


def test_devices_that_do_not_work_are_a_row(doctor, monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    code, out = doctor(*DOCTOR[1:])
    result = table(out)
    assert code == 78
    assert result["devices"]["message"].startswith("JAX_PLATFORMS=cuda: jax cannot start it")
    assert "cuda12" in result["devices"]["hint"]
    assert result["free space"]["level"] == "ok"


def test_all_failures_are_shown(doctor, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, out = doctor(
        *DOCTOR[1:],
        *("run.root=runs", "train.global_batch_size=63", "cluster.gpus_per_process=1"),
        *("train.compilation_cache_dir=/proc/no", "data=mnist", "data.cache_dir=none"),
        "data.download=false",
    )
    result = table(out)
    assert code == 78
    failed = {name for name, finding in result.items() if finding["level"] == "failure"}
    assert {"batch", "devices", "run directory", "data"} <= failed
    assert result["compilation cache"]["level"] == "warning"
    assert "use a multiple of 8" in result["batch"]["hint"]
    assert "cluster.gpus_per_process=1" in result["devices"]["message"]


def test_a_corrupt_file_of_the_data_set_is_named(doctor, tmp_path, mnist_dir):
    copy = tmp_path / "mnist"
    shutil.copytree(mnist_dir, copy)
    labels = next(copy.glob("t10k-labels*"))
    labels.chmod(0o644)
    labels.write_bytes(labels.read_bytes()[:-5])
    code, out = doctor(*DOCTOR[1:], "data=mnist", f"data.root={copy}")
    assert code == 69
    data = table(out)["data"]
    assert data["level"] == "failure"
    assert labels.name in data["message"]
    assert data["hint"] == "copy or download the file again"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}, "start it with srun"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS missing"),
    ],
)
def test_a_wrong_environment_is_a_row(doctor, monkeypatch, environ, message):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    code, out = doctor(*DOCTOR[1:])
    assert code == 78
    topology = table(out)["topology"]
    assert message in topology["message"] + ": " + topology["hint"]


def test_a_table_for_people(doctor, capsys):
    code, out = doctor("+experiment=smoke", "data=mnist", "data.cache_dir=none")
    assert code == 0, out
    assert "warning  data" in out
    assert f"\n{'':28}fix: run doctor with --download" in out
    command._show(
        [Finding("data", "failure", "no files", "Two ways out:\nput them\nor not")], False
    )
    printed = capsys.readouterr().out
    assert printed.startswith("failure  data               no files\n")
    assert f"\n{'':28}fix: Two ways out:\n{'':33}put them\n{'':33}or not\n" in printed


def test_a_typo_is_refused_as_everywhere(doctor):
    with pytest.raises(TrainerError, match=r"did you mean optim\.lr\?"):
        doctor("optim.lrr=1")
