"""The window under way in a file: what is known for sure to be the last that was written."""

import os
import shutil

import pytest

from candor.agent.daemon import snapshot
from candor.agent.daemon.snapshot import FILE_NAME, Left, SnapshotFile
from candor.topologies.specs import files


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


class Clock:
    """Seconds by hand: a write takes `takes_s`, a round a second."""

    def __init__(self, takes_s):
        self.takes_s, self.calls = takes_s, 0

    def __call__(self):
        self.calls += 1
        rounds, ended = divmod(self.calls - 1, 2)
        return 1.0 + rounds + ended * self.takes_s


@pytest.fixture
def synced(monkeypatch):
    """Which files have been synced, one entry a file or folder."""
    found = []
    monkeypatch.setattr(files, "sync", lambda path: found.append(str(path)))
    return found


@pytest.mark.parametrize("boot_id", [b"another start...", bytes(16)])
def test_where_syncs_cost_little_of_a_round_a_power_cut_loses_nothing(
    tmp_path, monkeypatch, synced, boot_id
):
    file = SnapshotFile(tmp_path, Clock(0.018))
    for number in range(4):
        file.replace(b"window %d" % number)
    assert len(synced) == 8
    monkeypatch.setattr(snapshot, "_boot_id", lambda: boot_id)
    assert SnapshotFile(tmp_path).read() == Left(b"window 3", newest=True)


def test_where_they_cost_more_one_more_is_synced_and_then_none_for_a_while(
    tmp_path, monkeypatch, synced
):
    file = SnapshotFile(tmp_path, Clock(0.021))
    counts = []
    for number in range(34):
        file.replace(b"window %d" % number)
        counts.append(len(synced) // 2)
    # The first cannot be measured, the second is too slow, the third was promised to be synced.
    assert counts[:5] == [1, 2, 3, 3, 3]
    assert counts[30:] == [3, 4, 5, 5]  # 30 s after it was too slow
    monkeypatch.setattr(snapshot, "_boot_id", lambda: b"another start...")
    assert not SnapshotFile(tmp_path).read().newest


def test_a_backup_of_one_that_promised_is_not_the_newest(tmp_path):
    SnapshotFile(tmp_path).replace(b"a window")
    shutil.copy2(tmp_path / FILE_NAME, tmp_path / "backup")
    SnapshotFile(tmp_path).replace(b"a later window")
    os.replace(tmp_path / "backup", tmp_path / FILE_NAME)
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
    (tmp_path / FILE_NAME).write_bytes(b"candor/window/1\n" + bytes(64) + b"a window")
    assert SnapshotFile(tmp_path).read() == Left(b"a window", newest=False)
