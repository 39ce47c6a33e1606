"""The table of exit codes in docs/reliability.md is whole, and names tests that are there."""

import re
from pathlib import Path

from trainer import errors

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (\d+) \|.*`(test_\w+\.py)::(\w+)` \|$", re.MULTILINE)


def test_every_exit_code_has_a_test_that_produces_it():
    rows = ROW.findall((ROOT / "docs" / "reliability.md").read_text())
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _, _ in rows} == codes
    for code, file, test in rows:
        text = (ROOT / "tests" / file).read_text()
        found = re.search(rf"^def {test}\(.*?(?=^def |^@|\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, f"{file}::{test} is not there"
        # A line that compares an exit code with this one, and not just any digits.
        compared = re.search(rf"assert (?=.*code).*(?<![.\d]){code}\b", found.group())
        assert compared, f"{file}::{test} does not assert code {code}"
