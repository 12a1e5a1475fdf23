"""The watch over what neighbours make us hold, on real TCP connections."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from candor.network.transport import TransportLimits
from candor.network.zeromq.watch import TELL_EVERY_S, ConnectionWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
LIMITS = TransportLimits(chunk_bytes=4000, header_bytes_max=1000, connections_max=2)
IDLE_MAX, BUSY_MAX = 10_000, 50_000  # two messages; eight more
Pair = tuple[socket.socket, socket.socket]


class Watched:
    """A watch, the connections that it follows, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, str | int]]] = []
        self.watch = ConnectionWatch(
            LIMITS, lambda event, fields: self.told.append((event, fields))
        )
        self.server = socket.create_server(("127.0.0.1", 0))
        self.pairs: list[Pair] = []

    def connect(self, owner: str | None = None, now_s: float = 0.0) -> Pair:
        """The client's and the accepted end of a connection, which `owner` has spoken on."""
        client = socket.create_connection(self.server.getsockname(), timeout=5)
        accepted, _ = self.server.accept()
        accepted.settimeout(5)
        self.pairs.append((client, accepted))
        self.watch.accepted(accepted.fileno(), now_s)
        if owner is not None:
            assert self.watch.admits(owner, now_s)
            self.deliver(self.pairs[-1], owner, now_s)
            self.sweep(now_s)
        return self.pairs[-1]

    def deliver(self, pair: Pair, owner: str, now_s: float = 0.0) -> None:
        self.watch.delivered(pair[1].fileno(), owner, now_s)

    def sweep(self, now_s: float = 0.0, *, drained: bool = True) -> None:
        self.watch.sweep(now_s, lambda: drained)


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    for client, accepted in watched.pairs:
        client.close()
        accepted.close()
    watched.server.close()


def _send(pair: Pair, count: int, *, read: bool = True) -> None:
    client, accepted = pair
    client.sendall(bytes(count))
    while read and count:
        count -= len(accepted.recv(count))


def _is_cut(pair: Pair) -> bool:
    pair[0].setblocking(False)
    try:
        return pair[0].recv(1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize(("drained", "limit"), [(True, IDLE_MAX), (False, BUSY_MAX)])
def test_a_connection_is_cut_above_the_limit_and_not_at_it(
    watched: Watched, drained: bool, limit: int
) -> None:
    pair = watched.connect("a")
    _send(pair, limit)
    watched.sweep(drained=drained)
    assert not _is_cut(pair)
    _send(pair, 1)
    watched.sweep(drained=drained)
    assert _is_cut(pair)
    [(event, fields)] = watched.told
    assert event == "connection_cut"
    assert fields["peer"] == "a"
    assert fields["reason"] == f"a message without an end, above {limit} bytes"
    assert fields["address"] == f"127.0.0.1:{pair[0].getsockname()[1]}"


def test_who_floods_loses_its_connections_and_gets_no_other_for_a_while(watched: Watched) -> None:
    pair, beside, other = watched.connect("a"), watched.connect("a"), watched.connect("b")
    for _ in range(int(LIMITS.messages_burst)):
        watched.deliver(pair, "a", 1.0)
    assert not _is_cut(pair)
    watched.deliver(pair, "a", 1.0)
    assert _is_cut(pair)
    assert _is_cut(beside)
    assert not _is_cut(other)
    [(event, fields)] = watched.told
    assert (event, fields["peer"]) == ("connection_cut", "a")
    assert "none is let in for 10 s" in str(fields["reason"])
    assert not watched.watch.admits("a", 1.0 + LIMITS.hang_up_s - 0.1)
    assert watched.watch.admits("b", 1.0)
    assert watched.watch.admits("a", 1.0 + LIMITS.hang_up_s)


def test_of_connections_that_say_nothing_the_oldest_give_way(watched: Watched) -> None:
    spoken = watched.connect("a")
    silent = [watched.connect() for _ in range(LIMITS.unknown_connections_max)]
    assert not any(map(_is_cut, silent))
    more = [watched.connect() for _ in range(2)]
    assert [_is_cut(pair) for pair in silent[:3]] == [True, True, False]
    assert not any(map(_is_cut, [spoken, *more]))


def test_messages_beyond_the_limits_end_the_same_way(watched: Watched) -> None:
    pair = watched.connect("a")
    for _ in range(10):
        watched.watch.refused("a", 1.0)
    assert not _is_cut(pair)
    watched.watch.refused("a", 1.0)
    assert _is_cut(pair)


def test_what_the_kernel_holds_and_libzmq_has_not_read_does_not_count(watched: Watched) -> None:
    pair = watched.connect("a")
    _send(pair, 4 * IDLE_MAX, read=False)
    watched.sweep()
    assert not _is_cut(pair)


def test_a_connection_that_delivers_is_never_cut(watched: Watched) -> None:
    pair = watched.connect("a")
    for _ in range(10):
        _send(pair, IDLE_MAX)
        watched.deliver(pair, "a")
        watched.sweep()
    assert not _is_cut(pair)


def test_the_connections_of_a_key_share_its_limit_and_the_fullest_is_cut(watched: Watched) -> None:
    one, two, other = watched.connect("a"), watched.connect("a"), watched.connect("b")
    for pair, count in ((one, 4_000), (two, 6_000), (other, IDLE_MAX)):
        _send(pair, count)
    watched.sweep()
    assert watched.watch.cut == 0
    _send(one, 1)
    watched.sweep()
    assert [_is_cut(pair) for pair in (one, two, other)] == [False, True, False]


def test_a_key_has_so_many_connections_and_the_oldest_makes_room(watched: Watched) -> None:
    pairs = [watched.connect("a") for _ in range(5)]
    other = watched.connect("b")
    assert [_is_cut(pair) for pair in (*pairs, other)] == [True, True, True, False, False, False]
    assert [fields["reason"] for _, fields in watched.told] == ["more than 2 connections"]


def test_a_key_that_says_nothing_is_not_let_in_again_until_it_was_cut(watched: Watched) -> None:
    silent = []
    for _ in range(2):
        silent.append(watched.connect())
        assert watched.watch.admits("a", 0.0)
    asking = watched.connect()
    assert not watched.watch.admits("a", 0.0)
    assert watched.watch.admits("b", 0.0)
    watched.sweep(LIMITS.first_message_s)
    assert watched.watch.cut == 0
    watched.sweep(LIMITS.first_message_s + 1, drained=False)  # it may have spoken: nobody has read
    assert watched.watch.cut == 0
    watched.sweep(LIMITS.first_message_s + 1)
    assert all(_is_cut(pair) for pair in (*silent, asking))
    assert watched.watch.admits("a", LIMITS.first_message_s + 1)
    refused, _ = watched.told
    assert refused == (
        "connection_refused",
        {"peer": "a", "reason": "too many that say nothing", "times": 1},
    )


def test_an_offender_is_told_of_once_a_minute_with_how_often_it_offended(watched: Watched) -> None:
    for now_s in (0.0, 1.0, TELL_EVERY_S - 1, TELL_EVERY_S, TELL_EVERY_S + 1):
        pair = watched.connect("a", now_s)
        _send(pair, 2 * IDLE_MAX)
        watched.sweep(now_s)
        assert watched.watch.disconnected(pair[1].fileno())
    assert [fields["times"] for _, fields in watched.told] == [1, 4]


def test_a_descriptor_that_was_closed_or_reused_for_a_file_is_left_alone(
    watched: Watched, tmp_path
) -> None:
    pair = watched.connect()
    fd = os.dup(pair[1].fileno())
    watched.watch.accepted(fd, 0.0)
    watched.sweep()
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), fd)
        before = len(os.listdir("/proc/self/fd"))
        watched.sweep()
        assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    watched.sweep()
    assert watched.watch.cut == 0


def test_a_connection_that_ended_is_forgotten(watched: Watched) -> None:
    pair = watched.connect("a")
    assert not watched.watch.disconnected(pair[1].fileno())
    _send(pair, 2 * BUSY_MAX)
    watched.sweep()
    assert watched.watch.cut == 0
