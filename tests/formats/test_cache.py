"""The cache of decoded data: whose folders are used, and what becomes of damaged ones."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trainer.data import digests
from trainer.data.report import Report
from trainer.formats import cache
from trainer.job.errors import ConfigError, DataError, Preempted
from trainer.job.lock import turn


@pytest.fixture
def decode(tmp_path):
    """Decode a file to two arrays: returns them, and keeps the warnings and the decodings."""
    file, warnings, decodings = tmp_path / "file", [], []
    file.write_bytes(b"contents")

    def write(folder, done):
        decodings.append(folder)
        np.save(folder / "train_x.npy", np.arange(1000))
        np.save(folder / "test_x.npy", np.arange(9))
        return {"names": ["a", "b"]}, {"file": digests.of_file(file)}

    def decode(**options):
        report = Report(lambda *_: None, lambda: None, warnings.append)
        folder = str(tmp_path / "cache")
        return cache.decoded(folder, "kind", {"file": file}, options, write, report)

    decode.file, decode.warnings, decode.decodings = file, warnings, decodings
    decode.folder = tmp_path / "cache"
    return decode


def folders(decode):
    return [path for path in decode.folder.iterdir() if path.is_dir()]


def test_files_are_decoded_once_and_again_when_they_or_the_options_change(decode):
    for _ in range(2):
        splits, about = decode()
        assert about == {"names": ["a", "b"]}
        assert {name: len(split["x"]) for name, split in splits.items()} == {
            "train": 1000,
            "test": 9,
        }
        assert len(decode.decodings) == 1
    decode(size=3)
    assert len(decode.decodings) == 2
    decode.file.write_bytes(b"other contents")
    decode()
    assert len(decode.decodings) == 3
    assert not decode.warnings
    assert not list(decode.folder.glob(".*"))


def test_the_digests_of_the_files_are_those_of_sha256sum(decode):
    decode()
    (folder,) = folders(decode)
    words = ["sha256sum", "--check", "--quiet", folder / "SHA256SUMS"]
    subprocess.run(words, cwd=decode.file.parent, check=True)


def cut(path):
    os.truncate(path, path.stat().st_size - 8)


def change(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train_x.npy", "test_x.npy", "manifest.json"])
@pytest.mark.parametrize("harm", [cut, change, os.unlink], ids=["cut", "changed", "missing"])
def test_a_damaged_folder_is_named_and_decoded_again(decode, name, harm):
    expected = decode()[0]["train"]["x"][:].tolist()
    (folder,) = folders(decode)
    harm(folder / name)
    assert decode()[0]["train"]["x"][:].tolist() == expected
    (warning,) = decode.warnings
    assert str(folder) in warning
    assert name in warning
    assert len(decode.decodings) == 2
    assert folders(decode) == [folder]


def test_a_copied_folder_is_used_once_its_bytes_are_checked(decode):
    decode()
    (folder,) = folders(decode)
    os.utime(folder / "train_x.npy")
    decode()
    assert len(decode.decodings) == 1


def test_a_folder_that_others_can_write_to_is_not_used(decode):
    decode()
    decode.folder.chmod(0o777)
    with pytest.raises(ConfigError, match=r"data\.cache_dir=.*/cache can be written by others"):
        decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_folder_of_another_user_is_not_used(decode):
    decode()
    os.chown(decode.folder, 12345, 12345)
    with pytest.raises(ConfigError, match=r"belongs to another user \(uid 12345\).*of your own"):
        decode()


def test_of_several_that_need_it_at_once_one_decodes(decode):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decode()[1], range(4)))
    assert results == [{"names": ["a", "b"]}] * 4
    assert len(decode.decodings) == 1


def test_who_waits_for_another_can_be_asked_to_stop(decode, tmp_path):
    decode()
    (lock,) = decode.folder.glob("*.lock")

    def poll():
        raise Preempted("asked to stop")

    report = Report(print, poll, print)
    with turn(lock), pytest.raises(Preempted):
        cache.decoded(str(decode.folder), "kind", {"file": decode.file}, {}, pytest.fail, report)


def test_nothing_is_left_of_a_decoding_that_fails(decode, tmp_path):
    def fail(folder, done):
        np.save(folder / "train_x.npy", np.arange(10))
        raise DataError("broken")

    report = Report(print, lambda: None, print)
    with pytest.raises(DataError, match="broken"):
        cache.decoded(str(tmp_path / "c"), "kind", {"file": decode.file}, {}, fail, report)
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]
