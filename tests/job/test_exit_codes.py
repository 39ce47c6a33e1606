"""The tables of exit codes in docs/reliability.md are whole, and schedulers act on them."""

import re
import subprocess
from pathlib import Path

from support.manifests import K8S, RETRIED, action, one, render

from trainer.job import errors

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \|.*`(test_\w+\.py)::(\w+)` \|$", re.MULTILINE)


def test_every_exit_code_has_a_test_that_produces_it():
    rows = ROW.findall((ROOT / "docs" / "reliability.md").read_text())
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _, _ in rows} == codes
    for code, file, test in rows:
        (path,) = (ROOT / "tests").rglob(file)
        text = path.read_text()
        result = re.search(rf"^def {test}\(.*?(?=^def |^@|\Z)", text, re.MULTILINE | re.DOTALL)
        assert result, f"{file}::{test} is not there"
        # The test compares an exit code with this one, or expects an error that ends with it.
        compare = rf"(?:assert (?=.*code).*|check_end\([^\"]*)(?<![.\d]){code}\b"
        names = [n for n, v in vars(errors).items() if getattr(v, "exit_code", None) == int(code)]
        raises = rf"raises\((?:{'|'.join(names)})\b" if names else compare
        assert re.search(f"{compare}|{raises}", result.group()), f"{file}::{test}: {code}"


def test_slurm_and_kubernetes_run_the_same_codes_again(tmp_path):
    assert {errors.EXIT_RETRY, 137} <= RETRIED
    job = one(render(K8S / "overlays/cpu"), "Job")
    counted = {code for code in range(1, 256) if action(job, code) == "Count"}
    assert counted == RETRIED

    script = (ROOT / "scripts" / "slurm" / "train.sbatch").read_text()
    functions = re.findall(r"^verdict\(\) \{.*?^\}|^again\(\) .*?\}$", script, re.M | re.S)
    assert len(functions) == 2
    loop = """EXIT_RETRY=75; codes="$1"
    for code in {0..255}; do
      echo "$code" >"$codes"; verdict "$code"      # said by a task, and by srun
      printf '75\\n%s\\n' "$code" >"$codes"; verdict 137  # beside one that lost a peer
      : >"$codes"; verdict "$code"                 # said by srun only
    done"""
    bash = ["bash", "-c", "\n".join([*functions, loop]), "bash", tmp_path / "codes"]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    message = [int(line) for line in done.stdout.split()]
    for code in range(256):
        alone, beside, by_srun = message[3 * code : 3 * code + 3]
        expected = errors.EXIT_RETRY if code in RETRIED else code
        assert alone == expected
        # 167: the credential of the job had expired before srun could start the tasks.
        assert by_srun == (errors.EXIT_RETRY if code == 167 else expected)
        assert beside == (expected or errors.EXIT_RETRY)
