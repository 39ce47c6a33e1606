"""The Dockerfile and the compose files: what their linters say, and what they promise."""

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from support.pods import IMAGE_ENVIRON

DOCKER = Path(__file__).resolve().parents[2] / "docker"


def tool(name, *arguments):
    command = [Path(sys.executable).parent / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_hadolint_finds_nothing():
    checked = tool("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile")
    assert (checked.returncode, checked.stdout) == (0, "")


def test_trivy_finds_nothing(tmp_path):
    report = tmp_path / "report.json"
    options = ["--quiet", "--skip-check-update", "--format", "json", "--output", report]
    checked = tool("trivy", "--cache-dir", tmp_path, "config", *options, DOCKER)
    assert checked.returncode == 0, checked.stderr
    (result,) = json.loads(report.read_text())["Results"]
    assert result["Target"] == "Dockerfile"
    assert result["MisconfSummary"]["Failures"] == 0, result
    assert result["MisconfSummary"]["Successes"] > 10


def stages_and_arguments():
    text = (DOCKER / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    return stages, set(re.findall(r"^ARG (\w+)=", text, re.MULTILINE))


def test_docker_build_makes_the_trainer_when_no_target_is_named():
    assert stages_and_arguments()[0][-1] == "trainer"


def test_the_compose_files_build_these_images_and_harden_them():
    stages, arguments = stages_and_arguments()
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert composed["services"].keys() == {"trainer", "tensorboard"}
    for service in composed["services"].values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
        assert build["target"] in stages
        assert build.get("args", {}).keys() <= arguments
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "user", "network_mode", "pid"} & service.keys()
        for mount in service["volumes"]:
            assert mount.split(":")[0] in composed["volumes"], "not a path of somebody's machine"
            assert mount.split(":")[1] == "/runs"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    gpus = yaml.safe_load((DOCKER / "compose.cuda12.yaml").read_text())["services"]
    assert gpus.keys() == {"trainer"}
    assert gpus["trainer"]["build"]["args"].keys() <= arguments


def test_the_pods_of_the_tests_have_the_variables_of_the_image():
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    match = {"PATH": "/usr/local/bin:/usr/bin:/bin", "REVISION": ""}  # of the base image; the ARG
    for stage in ("runtime", "trainer"):
        (lines,) = re.findall(rf"^FROM \S+ AS {stage}$(.*?)(?=^FROM |\Z)", text, re.M | re.S)
        for name, value in re.findall(
            r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.*)", lines, re.M))
        ):
            match[name] = re.sub(r"\$\{(\w+)\}", lambda used: match[used[1]], value)
    del match["REVISION"]
    assert match.pop("TRAINER_REVISION") == ""  # as good as unset
    assert match == IMAGE_ENVIRON
