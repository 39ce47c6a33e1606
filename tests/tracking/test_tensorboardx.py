"""The libraries that tensorboardX imports where they are installed are left alone."""

import os
import subprocess
import sys

FAKE = "raise SystemExit('imported')\n"


def test_a_torch_that_is_installed_is_not_imported_and_can_be_afterwards(tmp_path):
    (tmp_path / "torch.py").write_text(FAKE)
    (tmp_path / "boto3.py").write_text(FAKE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}

    def run(program: str) -> str:
        command = [sys.executable, "-c", program]
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        return ended.stdout + ended.stderr

    assert run("import tensorboardX") == "imported\n"
    ours = "import trainer.tracking.tensorboard\nprint('good')\nimport torch"
    assert run(ours) == "good\nimported\n"
