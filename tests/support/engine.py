"""Builds and runs images with buildah and podman: without a Docker engine, without a registry."""

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/base"
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")


def missing():
    """Say what keeps images from being built here; None when nothing does."""
    if os.geteuid() != 0:
        return "building an image needs root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(absent)} (Debian packages of these names)"
    if debian() is None:
        return "the base image is made of this machine's Debian release, and this is no Debian"
    return None


def debian():
    """Return the code name of this machine's Debian release, or None."""
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME") if release["ID"] == "debian" else None


class Engine:
    """Images and containers in a folder of their own; the user's are neither seen nor touched."""

    def __init__(self, folder):
        self.folder = folder
        self._started = []
        # In memory, where there is enough of it: 100,000 small files are written and deleted.
        memory = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        if int(memory[1]) > 10 * 2**20:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8g,mode=755", "tmpfs", folder])
        scratch = folder / "tmp"
        scratch.mkdir()
        self._environ = {**os.environ, "TMPDIR": str(scratch)}
        store = ["--root", folder / "root", "--runroot", folder / "run"]
        self._store = [*store, "--storage-driver", "overlay"]
        # Podman's defaults, crun and systemd, are not sure to work where this is a container too.
        self._podman = ["podman", *self._store, "--runtime", "runc", "--cgroup-manager=cgroupfs"]

    def podman(self, *arguments):
        """Call podman and return what it did; its stderr is kept apart."""
        command = [*self._podman, *arguments]
        return subprocess.run(
            command, env=self._environ, capture_output=True, text=True, timeout=300
        )

    def must(self, *arguments):
        """Call podman, which has to succeed, and return what it printed."""
        done = self.podman(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def inspect(self, image):
        """Return all that is known of an image."""
        return json.loads(self.must("image", "inspect", image))[0]

    def make_base(self):
        """Make the base image: Debian, Python and nothing else, like the slim one of Python."""
        packed = self.folder / "base.tar"
        unread = ("doc", "info", "lintian", "locale", "man")
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--include=ca-certificates,python3,python3-venv",
                *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in unread),
                debian(),
                packed,
            ],
            env=self._environ,
            check=True,
            timeout=300,
        )
        self.must("import", "--quiet", packed, BASE)
        packed.unlink()

    def build(self, target, image, **arguments):
        """Build a target of docker/Dockerfile with the pip settings of this machine."""
        command = ["buildah", *self._store, "bud", "--isolation", "chroot", "--format", "docker"]
        command += ["--layers=false", "--target", target, "--tag", image]
        command += ["--file", ROOT / "docker/Dockerfile", "--ignorefile", ROOT / ".dockerignore"]
        for name, value in {"BASE_IMAGE": BASE, **arguments}.items():
            command += ["--build-arg", f"{name}={value}"]
        for source, place in self._pip_mounts():
            command += ["--volume", f"{source}:{place}:ro"]
        command += [ROOT]
        built = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, timeout=600
        )
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]

    def run(self, image, *arguments, options=()):
        """Start a container with nothing that it does not need; return podman's process at once."""
        hardened = ["--read-only", "--tmpfs", "/tmp", "--network=none", "--cap-drop=all"]
        hardened += ["--security-opt=no-new-privileges"]
        here = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--no-healthcheck"]
        command = [*self._podman, "run", "--rm", *hardened, *here, *options, image, *arguments]
        process = subprocess.Popen(
            command,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def close(self):
        """End what runs, and leave nothing behind."""
        self.podman("rm", "--all", "--force", "--time=0")
        for process in self._started:
            process.communicate()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed(mounts):
            if Path(place).is_relative_to(self.folder):
                subprocess.run(["umount", "--lazy", place], check=True)
        shutil.rmtree(self.folder)

    def _pip_mounts(self):
        """Make a file of this machine's pip settings; return it and the files it names."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=True,
        )
        settings = {}
        for section in ("global.", "install.", ":env:."):  # the later wins
            for line in listed.stdout.splitlines():
                option, _, value = line.partition("=")
                if option.startswith(section):
                    settings[option.removeprefix(section)] = ast.literal_eval(value)
        text, mounts = "[global]\n", []
        for option, value in settings.items():
            words = []
            for word in value.split():
                path = Path(word.removeprefix("file://"))
                if path.is_absolute() and path.exists():
                    # An index in a folder `simple` refers to files beside it.
                    shared = path.parent if path.name == "simple" else path
                    place = Path(f"/run/pip/{len(mounts)}")
                    mounts.append((shared, place))
                    word = word.replace(str(path), str(place / path.relative_to(shared)))
                words.append(word)
            text += f"{option} = {' '.join(words)}\n"
        file = self.folder / "pip.conf"
        file.write_text(text)
        return [*mounts, (file, "/etc/pip.conf")]
