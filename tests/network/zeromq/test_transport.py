"""The transport between honest agents, on real sockets: delivery, backpressure, closing."""

import asyncio
import os
import socket
import time

import pytest

from candor.network.errors import LocalProtocolError, TransportError
from candor.network.transport import PeerAddress, TransportLimits
from candor.network.zeromq.transport import ZeroMqTransport

CHUNK = 256 * 1024


@pytest.fixture(autouse=True, params=["curve", "bulk"])
def way(request, neighbourhood) -> str:
    """Whether large frames have a way of their own: nobody above sees a difference."""
    neighbourhood.bulk_port = 0 if request.param == "bulk" else None
    way: str = request.param
    return way


async def test_messages_arrive_both_ways_with_their_sender(neighbourhood, receive) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    large = memoryview(os.urandom(1024 * 1024))
    a.post("b", [b"head", large])
    b.post("a", [b"answer"])
    at_b, at_a = await receive(b), await receive(a)
    assert (at_b.sender, at_a.sender) == ("a", "b")
    assert [bytes(frame) for frame in at_b.frames] == [b"head", bytes(large)]
    assert at_a.frames == (b"answer",)
    assert a.link("b").bytes_sent == b.link("a").bytes_received == 4 + len(large)
    assert a.link("b").messages_sent == a.link("b").messages_received == 1


async def test_one_link_keeps_order_across_control_and_bulk(neighbourhood, receive) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    for number in range(300):
        a.post("b", [b"%d" % number], bulk_round=1 if number % 2 else None)
    assert [(await receive(b)).frames[0] for _ in range(300)] == [b"%d" % n for n in range(300)]


async def test_delivered_frames_cannot_be_written(neighbourhood, receive) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    a.post("b", [bytes(CHUNK)])
    [frame] = (await receive(b)).frames
    assert isinstance(frame, memoryview)
    assert frame.readonly


async def test_a_writable_buffer_is_frozen_when_posted(neighbourhood, receive) -> None:
    a = await neighbourhood.start("a", "b")
    storage = bytearray(b"\x01" * CHUNK)
    a.post("b", [memoryview(storage)])  # b is not there yet: nothing can have been sent
    storage[:] = bytes(CHUNK)
    b = await neighbourhood.start("b", "a")
    assert bytes((await receive(b)).frames[0]) == b"\x01" * CHUNK


@pytest.mark.parametrize("size", [3, CHUNK])  # copied into libzmq, and not
async def test_a_view_with_gaps_arrives_without_them(neighbourhood, receive, size: int) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    a.post("b", [memoryview(b"\x01\x00" * size)[::2]])
    assert [bytes(frame) for frame in (await receive(b)).frames] == [b"\x01" * size]


async def test_a_peer_that_appears_late_gets_what_waited(
    neighbourhood, receive, eventually
) -> None:
    a = await neighbourhood.start("a", "b")
    a.post("b", [b"early"])
    await eventually(lambda: a.link("b").reason == "connection refused")
    assert not a.link("b").connected
    b = await neighbourhood.start("b", "a")
    assert (await receive(b)).frames == (b"early",)
    await eventually(lambda: a.link("b").connected)
    assert a.link("b").reason is None


async def test_a_peer_that_restarts_is_served_again(neighbourhood, receive, eventually) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    await eventually(lambda: a.link("b").connected)
    await b.close(0)
    await eventually(lambda: not a.link("b").connected)
    assert a.link("b").reason in ("connection lost", "connection refused")
    b = await neighbourhood.start("b", "a")
    a.post("b", [b"after the restart"])
    assert (await receive(b)).frames == (b"after the restart",)


async def test_a_peer_that_does_not_read_holds_up_and_costs_nobody(
    neighbourhood, receive, eventually
) -> None:
    a, b = await neighbourhood.start("a", "b", "c"), await neighbourhood.start("b", "a")
    c = await neighbourhood.start("c", "a")
    await eventually(lambda: a.link("b").connected and a.link("c").connected)
    payload = memoryview(bytes(CHUNK))
    for number in range(1, 401):  # 400 MiB to b, which reads nothing
        for part in range(4):
            a.post("b", [b"%d %d" % (number, part), payload], bulk_round=number)
        await asyncio.sleep(0)
    a.post("c", [b"still served"])
    assert (await receive(c)).frames == (b"still served",)
    sent, dropped = a.link("b").messages_sent, a.link("b").messages_dropped
    assert sent < 800  # kernel buffers and two high-water marks, not the whole
    assert 1592 <= sent + dropped <= 1600
    heads = [b""]
    while heads[-1] != b"400 3":
        heads.append(bytes((await receive(b)).frames[0]))
    assert heads[-4:] == [b"400 %d" % part for part in range(4)]


async def test_close_with_a_drain_delivers_the_last_message(
    neighbourhood, receive, eventually
) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    await eventually(lambda: a.link("b").connected)
    for number in range(50):  # less than an outbox holds
        a.post("b", [b"%d" % number, bytes(CHUNK)])
    _, received = await asyncio.gather(a.close(10), _receive_many(b, 50))
    assert received[-1] == b"49"


async def _receive_many(transport: ZeroMqTransport, count: int) -> list[bytes]:
    async with asyncio.timeout(60):
        return [bytes((await transport.receive()).frames[0]) for _ in range(count)]


async def test_close_is_bounded_when_the_peer_does_not_read(neighbourhood, eventually) -> None:
    a, _ = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    await eventually(lambda: a.link("b").connected)
    for _ in range(200):
        a.post("b", [bytes(CHUNK)])
    started_s = time.monotonic()
    await a.close(0.3)
    assert time.monotonic() - started_s < 10


async def test_closing_leaves_no_task_and_no_descriptor(neighbourhood, eventually) -> None:
    async def run_once() -> None:
        a = await neighbourhood.start("a", "b", "nobody")
        b = await neighbourhood.start("b", "a")
        await eventually(lambda: a.link("b").connected and b.link("a").connected)
        await eventually(lambda: a.link("nobody").reason == "connection refused")
        await asyncio.gather(a.close(0.1), b.close(0.1))

    await run_once()  # what the loop and the interpreter open once and keep
    before = _descriptors()
    await run_once()
    assert _descriptors() <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_closing_ends_a_receive_that_waits(neighbourhood) -> None:
    a = await neighbourhood.start("a", "b")
    waiting = asyncio.create_task(a.receive())
    await asyncio.sleep(0)
    await a.close(0)
    with pytest.raises(TransportError, match="closed"):
        await waiting
    with pytest.raises(LocalProtocolError, match="not open"):
        a.post("b", [b"too late"])


async def test_a_receive_that_is_cancelled_loses_nothing(neighbourhood, receive) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await b.receive()
    a.post("b", [b"kept"])
    assert (await receive(b)).frames == (b"kept",)


async def test_a_failing_callback_surfaces_in_receive(neighbourhood) -> None:
    a = await neighbourhood.start("a", "b")
    waiting = asyncio.create_task(a.receive())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(a._guard(lambda: [].pop()))
    with pytest.raises(TransportError, match="pop from empty list") as caught:
        await waiting
    assert isinstance(caught.value.__cause__, IndexError)


async def test_a_failing_callback_that_nobody_saw_surfaces_in_close(neighbourhood) -> None:
    a = await neighbourhood.start("a", "b")
    a._guard(lambda: [].pop())()
    with pytest.raises(TransportError, match="pop from empty list"):
        await a.close(0)


async def test_a_taken_port_is_one_line_with_endpoint_and_reason(neighbourhood) -> None:
    a = await neighbourhood.start("a", "b")
    public, secret = (key.decode() for key in neighbourhood.keys("b"))
    second = ZeroMqTransport("b", a.endpoint, public, secret, {})
    with pytest.raises(TransportError) as caught:
        await second.start()
    assert str(caught.value) == f"cannot listen on {a.endpoint}: address already in use"


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1", "tcp://127.0.0.1:99999", "nonsense", "ipc:///tmp/x"]
)
async def test_a_bad_address_is_named_whether_ours_or_theirs(neighbourhood, endpoint: str) -> None:
    public, secret = (key.decode() for key in neighbourhood.keys("a"))
    with pytest.raises(TransportError, match=f"cannot listen on {endpoint}: "):
        await ZeroMqTransport("a", endpoint, public, secret, {}).start()
    with pytest.raises(TransportError, match=f"cannot dial {endpoint}: "):
        await neighbourhood.start_with("a", {"b": PeerAddress(endpoint, public)})


async def test_port_zero_is_any_free_port_and_named(neighbourhood) -> None:
    public, secret = (key.decode() for key in neighbourhood.keys("a"))
    transport = ZeroMqTransport("a", "tcp://127.0.0.1:0", public, secret, {})
    await transport.start()
    port = int(transport.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        pass
    await transport.close(0)


async def test_a_message_at_the_limit_passes_and_above_is_our_own_error(
    neighbourhood, receive
) -> None:
    limits = TransportLimits(chunk_bytes=100_000, header_bytes_max=1000)
    a = await neighbourhood.start("a", "b", limits=limits)
    b = await neighbourhood.start("b", "a", limits=limits)
    for frames in ([bytes(101_000)], [bytes(25_250)] * 4):
        a.post("b", frames)
        assert [len(frame) for frame in (await receive(b)).frames] == [*map(len, frames)]
    with pytest.raises(LocalProtocolError, match="101001 bytes"):
        a.post("b", [bytes(100_000), bytes(1001)])
    with pytest.raises(LocalProtocolError, match="no peer of a"):
        a.post("stranger", [b"x"])
