"""The window under way in a file: what is known for sure to be the last that was written."""

import os
import shutil

import pytest

from candor.agent.daemon import snapshot
from candor.agent.daemon.snapshot import FILE_NAME, Left, SnapshotFile


@pytest.fixture
def written(tmp_path):
    SnapshotFile(tmp_path).replace(b"an older window")
    SnapshotFile(tmp_path).replace(b"a window")
    return tmp_path


def test_a_new_directory_has_none(tmp_path):
    assert SnapshotFile(tmp_path).read() == Left()


def test_what_a_process_has_left_is_the_newest(written):
    assert SnapshotFile(written).read() == Left(b"a window", newest=True)


@pytest.mark.parametrize("copied", [shutil.copy2, shutil.copyfile])
def test_a_backup_that_was_put_back_is_not(written, copied):
    copied(written / FILE_NAME, written / "backup")
    SnapshotFile(written).replace(b"a later window")
    os.replace(written / "backup", written / FILE_NAME)
    assert SnapshotFile(written).read() == Left(b"a window", newest=False)


def test_nor_is_one_that_was_put_back_into_the_same_file(written):
    path = written / FILE_NAME
    older = path.read_bytes()
    SnapshotFile(written).replace(b"a later window")
    path.write_bytes(older)
    assert not SnapshotFile(written).read().newest


def test_nor_one_whose_file_was_changed_later(written, monkeypatch):
    monkeypatch.setattr(snapshot, "WRITTEN_S", 0.0)
    assert SnapshotFile(written).read() == Left(b"a window", newest=False)


def test_nor_one_of_before_the_machine_was_started(written, monkeypatch):
    monkeypatch.setattr(snapshot, "_boot_id", lambda: b"another start...")
    assert SnapshotFile(written).read() == Left(b"a window", newest=False)


def test_where_the_system_does_not_tell_nothing_is_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_boot_id", lambda: bytes(16))
    SnapshotFile(tmp_path).replace(b"a window")
    assert SnapshotFile(tmp_path).read() == Left(b"a window", newest=False)


@pytest.mark.parametrize("lost", [b"", bytes(1000)])
def test_what_a_power_cut_leaves_is_none(written, lost):
    (written / FILE_NAME).write_bytes(lost)
    assert SnapshotFile(written).read() == Left()


def test_a_damaged_one_is_none_and_told_by_its_name(written):
    path = written / FILE_NAME
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + b"!", data[:20]):
        path.write_bytes(damaged)
        left = SnapshotFile(written).read()
        assert left.data is None
        assert left.damage is not None
        assert left.damage.startswith(str(path))


def test_one_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"\x92 an array of before")
    assert SnapshotFile(tmp_path).read() == Left(b"\x92 an array of before", newest=False)
