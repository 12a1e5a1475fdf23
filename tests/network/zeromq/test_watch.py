"""The watch over unfinished messages, on real TCP connections."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from candor.network.zeromq.watch import UnfinishedWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
LIMIT = 10_000


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client, accepted) ends of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.settimeout(5)
        accepted.settimeout(5)
        with client, accepted:
            yield client, accepted


def _send(pair: tuple[socket.socket, socket.socket], count: int) -> None:
    client, accepted = pair
    client.sendall(bytes(count))
    while count:
        count -= len(accepted.recv(count))


def test_a_connection_is_cut_above_the_limit_and_not_at_it(pair) -> None:
    watch = UnfinishedWatch(LIMIT)
    watch.accepted(pair[1].fileno())
    _send(pair, LIMIT)
    watch.sweep()
    assert watch.cut == 0
    _send(pair, 1)
    watch.sweep()
    assert watch.cut == 1
    assert pair[0].recv(1) == b""


def test_a_connection_that_delivers_is_never_cut(pair) -> None:
    watch = UnfinishedWatch(LIMIT)
    watch.accepted(pair[1].fileno())
    watch.sweep()
    for _ in range(10):
        _send(pair, LIMIT)
        watch.delivered(pair[1].fileno())
        watch.sweep()
    assert watch.cut == 0


def test_a_descriptor_that_was_closed_or_reused_for_a_file_is_left_alone(pair, tmp_path) -> None:
    watch = UnfinishedWatch(LIMIT)
    fd = os.dup(pair[1].fileno())
    watch.accepted(fd)
    watch.sweep()
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), fd)
        before = len(os.listdir("/proc/self/fd"))
        watch.sweep()
        assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    watch.sweep()
    assert watch.cut == 0


def test_a_connection_that_ended_is_forgotten(pair) -> None:
    watch = UnfinishedWatch(LIMIT)
    watch.accepted(pair[1].fileno())
    watch.disconnected(pair[1].fileno())
    _send(pair, 2 * LIMIT)
    watch.sweep()
    assert watch.cut == 0
