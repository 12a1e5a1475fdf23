"""The relay of the testbed, on real sockets: what it lets through, cuts, garbles and slows."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import zmq

from candor.agent.testbed.links import RESEND_S, Condition
from candor.agent.testbed.proxy import HOST, Ports, Proxy, flipped
from candor.agent.testbed.testbed import free_ports
from candor.network.transport import Delivery, PeerAddress, TransportLimits
from candor.network.zeromq.transport import ZeroMqTransport

DEADLINE_S = 20.0
# Quick to reconnect, so that a test of it is quick too.
LIMITS = TransportLimits(reconnect_s_min=0.02, reconnect_s_max=0.1)
PAIRS = (("a", "b"), ("b", "a"), ("a", "c"))
CUT = Condition(cut=True)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echoing(port: int) -> AsyncIterator[None]:
    """A server that sends everything back."""
    served = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        while data := await reader.read(1000):
            writer.write(data)
        await closed(writer)

    async with await asyncio.start_server(echo, HOST, port):
        yield
        await asyncio.gather(*served)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A relay of `PAIRS` to one server."""
    (port, *relays) = free_ports(1 + len(PAIRS))
    made = Proxy({pair: Ports(relay, port) for pair, relay in zip(PAIRS, relays, strict=True)})
    async with echoing(port):
        made.start()
        yield made
        made.close()


async def dialled(proxy: Proxy, *pair: str) -> Ends:
    return await asyncio.open_connection(HOST, proxy._ports[pair[0], pair[1]].relay)


async def test_bytes_come_through_as_they_are_and_so_does_the_end(proxy: Proxy) -> None:
    reader, writer = await dialled(proxy, "a", "b")
    sent = bytes(range(256)) * 4000  # beyond what one read takes
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    writer.write_eof()
    assert await reader.read() == b""
    await closed(writer)


async def test_a_cut_closes_and_refuses_what_is_cut_alone_until_it_heals(proxy: Proxy) -> None:
    ends = [await dialled(proxy, *pair) for pair in PAIRS]
    for _, writer in ends:
        writer.write(b"before")
    for reader, _ in ends:
        assert await reader.readexactly(6) == b"before"
    proxy.impose(dict.fromkeys(PAIRS[:2], CUT))
    for reader, _ in ends[:2]:
        assert await reader.read() == b""
    ends[2][1].write(b"still")
    assert await ends[2][0].readexactly(5) == b"still"
    for pair in PAIRS[:2]:
        with pytest.raises(ConnectionRefusedError):
            await dialled(proxy, *pair)
    proxy.impose({PAIRS[0]: CUT})
    with pytest.raises(ConnectionRefusedError):
        await dialled(proxy, "a", "b")
    proxy.impose({})
    ends += [await dialled(proxy, *pair) for pair in PAIRS[:2]]
    for reader, writer in ends[3:]:
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
    for _, writer in ends:
        await closed(writer)


async def echoed_s(proxy: Proxy, *pair: str, sent: bytes = b"there and back") -> float:
    """How long bytes take to the server and back, on a new connection."""
    reader, writer = await dialled(proxy, *pair)
    began_s = time.monotonic()
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    taken_s = time.monotonic() - began_s
    await closed(writer)
    return taken_s


async def test_what_is_delayed_comes_later_in_order_and_as_fast(proxy: Proxy) -> None:
    proxy.impose({("a", "b"): Condition(delay_s=0.3)})
    sent = bytes(range(256)) * 20_000  # 79 pieces: one after the other they would take a minute
    assert 0.6 <= await echoed_s(proxy, "a", "b", sent=sent) < 0.3 * 79


async def test_what_is_limited_takes_its_time_and_shares_it(proxy: Proxy) -> None:
    limited = Condition(limits=(("a", 40_000),))
    proxy.impose({("a", "b"): limited, ("a", "c"): limited})
    sent = bytes(20_000)
    both = (echoed_s(proxy, "a", other, sent=sent) for other in "bc")
    taken_s = await asyncio.gather(*both)
    # 40,000 bytes up, and as many down, of which the first come while the last go up.
    assert max(taken_s) >= 0.9


async def test_what_is_healed_is_neither_delayed_nor_limited(proxy: Proxy) -> None:
    proxy.impose({("a", "b"): Condition(delay_s=60.0, limits=(("a", 1),))})
    proxy.impose({})
    async with asyncio.timeout(DEADLINE_S):
        await echoed_s(proxy, "a", "b", sent=bytes(20_000))


async def test_what_is_lost_comes_late_and_whole(proxy: Proxy) -> None:
    proxy.impose({("a", "b"): Condition(loss_share=0.5)})
    sent = bytes(range(256)) * 400  # 71 segments: it would be a wonder if none were lost
    assert await echoed_s(proxy, "a", "b", sent=sent) >= RESEND_S


async def test_a_cut_ends_what_is_on_its_way_and_so_does_the_end(proxy: Proxy) -> None:
    slow = Condition(delay_s=50.0, limits=(("a", 10),))
    proxy.impose(dict.fromkeys(PAIRS, slow))
    ends = [await dialled(proxy, *pair) for pair in PAIRS]
    for _, writer in ends:
        writer.write(b"never to arrive, or in hours")
    await asyncio.sleep(0.05)
    async with asyncio.timeout(DEADLINE_S):
        proxy.impose({PAIRS[0]: CUT, PAIRS[1]: slow, PAIRS[2]: slow})
        assert await ends[0][0].read() == b""
        await asyncio.to_thread(proxy.close)
        for reader, writer in ends:
            assert await reader.read() == b""
            await closed(writer)


async def test_who_is_not_there_yet_is_waited_for() -> None:
    port, relay = free_ports(2)
    proxy = Proxy({("a", "b"): Ports(relay, port)})
    proxy.start()
    reader, writer = await dialled(proxy, "a", "b")
    writer.write(b"early")
    async with echoing(port):
        assert await reader.readexactly(5) == b"early"
        await closed(writer)
        proxy.close()


def test_one_bit_of_a_piece_is_flipped() -> None:
    for data in (b"\x00", b"some bytes", bytes(70_000)):
        changed = [a ^ b for a, b in zip(data, flipped(data), strict=True)]
        assert sorted(changed)[-1] == sum(changed) == 1


class Daemons:
    """Two transports that dial each other by way of a proxy."""

    def __init__(self) -> None:
        ports = dict(zip("ab", free_ports(2), strict=True))
        relays = dict(zip(PAIRS[:2], free_ports(2), strict=True))
        keys = {agent: [key.decode() for key in zmq.curve_keypair()] for agent in "ab"}
        self.proxy = Proxy({p: Ports(relay, ports[p[1]]) for p, relay in relays.items()})
        self.ends = {
            one: ZeroMqTransport(
                one,
                f"tcp://{HOST}:{ports[one]}",
                *keys[one],
                {other: PeerAddress(f"tcp://{HOST}:{relays[one, other]}", keys[other][0])},
                LIMITS,
            )
            for one, other in PAIRS[:2]
        }

    async def __aenter__(self) -> "Daemons":
        self.proxy.start()
        for end in self.ends.values():
            await end.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in self.ends.values():
            await end.close(0)
        self.proxy.close()

    async def receive(self) -> Delivery:
        """The next message from a at b."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.ends["b"].receive()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await asyncio.sleep(0.005)


async def test_no_garbled_message_is_delivered_and_the_connection_comes_back() -> None:
    async with Daemons() as pair:
        a, b = pair.ends["a"], pair.ends["b"]
        payload = bytes(range(256)) * 400
        a.post("b", [b"0", payload])
        assert [bytes(frame) for frame in (await pair.receive()).frames] == [b"0", payload]
        pair.proxy.impose(dict.fromkeys(PAIRS[:2], Condition(garbled=True)))
        number = 0
        while a.link("b").connected:  # each message is one more to be garbled
            number += 1
            a.post("b", [b"%d" % number, payload])
            await asyncio.sleep(0.005)
        assert a.link("b").reason is not None
        pair.proxy.impose({})
        await pair.until(lambda: a.link("b").connected)
        a.post("b", [b"last", payload])
        heads = []
        while heads[-1:] != [b"last"]:
            head, body = map(bytes, (await pair.receive()).frames)
            assert body == payload
            heads.append(head)
        assert set(heads) <= {b"%d" % n for n in range(number + 1)} | {b"last"}
        assert b.link("a").messages_received == 1 + len(heads)


async def test_a_cut_is_a_refused_connection_to_a_transport() -> None:
    async with Daemons() as pair:
        a = pair.ends["a"]
        await pair.until(lambda: a.link("b").connected)
        pair.proxy.impose(dict.fromkeys(PAIRS[:2], CUT))
        await pair.until(lambda: a.link("b").reason == "connection refused")
        a.post("b", [b"waited"])
        pair.proxy.impose({})
        assert (await pair.receive()).frames == (b"waited",)
