"""Large frames beside CURVE, on real sockets: order, what breaks on the way, and strangers."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

import pytest

from candor.network.bulk.incoming import BulkListener, Handlers
from candor.network.errors import TransportError
from candor.network.sealed import Again, Offer, Reference
from candor.network.transport import Delivery, OutboxEntry
from candor.network.zeromq.transport import ZeroMqTransport
from tests.network.conftest import LIMITS

CHUNK = 256 * 1024


@dataclass
class Read:
    """A transport that is read all the time, as a daemon does."""

    transport: ZeroMqTransport
    deliveries: "asyncio.Queue[Delivery]" = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        while True:
            self.deliveries.put_nowait(await self.transport.receive())

    async def next(self) -> list[bytes]:
        async with asyncio.timeout(60):
            return [bytes(frame) for frame in (await self.deliveries.get()).frames]


@pytest.fixture
async def reading() -> AsyncIterator:
    tasks = []

    def start(transport: ZeroMqTransport) -> Read:
        read = Read(transport)
        tasks.append(asyncio.create_task(read.run()))
        return read

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def pair(neighbourhood, reading, eventually) -> tuple[Read, Read]:
    """Two neighbours with both ways open."""
    neighbourhood.bulk_port = 0
    a = reading(await neighbourhood.start("a", "b"))
    b = reading(await neighbourhood.start("b", "a"))
    await eventually(lambda: a.transport.link("b").bulk and b.transport.link("a").bulk)
    return a, b


async def test_large_frames_keep_their_place_among_small_messages(pair) -> None:
    a, b = pair
    sent = []
    for number in range(1, 200):
        frames = [b"%d" % number]
        if number % 3 == 0:
            frames.append(os.urandom(CHUNK + number))
        sent.append(frames)
        a.transport.post("b", frames, bulk_round=1 if len(frames) == 2 else None)
    assert [await b.next() for _ in sent] == sent
    at_a, at_b = a.transport.link("b"), b.transport.link("a")
    assert at_a.bulk
    assert at_a.messages_sent >= at_b.messages_received == len(sent)
    assert at_b.bytes_received == sum(len(frame) for frames in sent for frame in frames)


@dataclass
class Between:
    """Somebody on the wire between a neighbour and the port that b offers: `passes` makes of what
    comes what goes on, None to cut the connection."""

    passes: Callable[[bytes], bytes | None] = bytes
    seen: bytearray = field(default_factory=bytearray)
    connections: int = 0
    target: int = 0

    async def run(self, target: int) -> asyncio.Server:
        self.target = target

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            back, on = await asyncio.open_connection("127.0.0.1", target)
            ends = asyncio.create_task(self._closes(back, writer))
            with suppress(ConnectionError, asyncio.CancelledError):
                while data := await reader.read(65_536):
                    self.seen += data
                    passed = self.passes(data)
                    if passed is None:
                        break
                    on.write(passed)
                    await on.drain()
            on.close()
            writer.close()
            await ends

        return await asyncio.start_server(forward, "127.0.0.1", 0)

    async def _closes(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await back.read()
        writer.close()


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Whether the other end closes the connection and says nothing."""
    try:
        return await asyncio.wait_for(reader.read(), 60) == b""
    except ConnectionError:
        return True


@pytest.fixture
async def tapped(pair, eventually) -> AsyncIterator[tuple[Read, Read, Between]]:
    """The pair, with somebody on a's way of bulk to b."""
    a, b = pair
    between = Between()
    listener = b.transport._bulk
    server = await between.run(listener.port)
    listener.port = server.sockets[0].getsockname()[1]
    listener.forget("a")  # a asks for another offer, and is led through
    await eventually(lambda: between.connections == 1 and a.transport.link("b").bulk)
    yield a, b, between
    server.close()


async def exchange(a: Read, b: Read, count: int, first: int = 0) -> list[list[bytes]]:
    """Post large and small messages by turns and take them in order; what was sent."""
    sent = []
    for number in range(first, first + count):
        frames = [b"%d" % number, os.urandom(CHUNK)] if number % 2 else [b"%d" % number]
        a.transport.post("b", frames, bulk_round=1 if number % 2 else None)
        sent.append(frames)
    assert [await b.next() for _ in sent] == sent
    return sent


async def test_who_listens_on_the_wire_learns_nothing_but_lengths(tapped) -> None:
    a, b, between = tapped
    secret = b"a secret of sixteen bytes at least" * 4096
    a.transport.post("b", [b"head", secret], bulk_round=1)
    assert await b.next() == [b"head", secret]
    assert len(between.seen) == 16 + 4 + len(secret) + 16  # ticket, prefix, tag
    assert secret[:16] not in bytes(between.seen)


@pytest.mark.parametrize("how", ["cut", "flip", "repeat", "leave out", "swallow"])
async def test_what_is_done_on_the_wire_costs_time_and_nothing_else(
    tapped, eventually, how: str
) -> None:
    a, b, between = tapped
    await exchange(a, b, 4)
    done = False

    def passes(data: bytes) -> bytes | None:
        nonlocal done
        if done:
            return b"" if how == "swallow" else data
        done = True
        match how:
            case "cut":
                return None
            case "flip":
                return bytes([data[0] ^ 1]) + data[1:]
            case "repeat":
                return data + data
            case _:
                return b""

    between.passes = passes
    await exchange(a, b, 10, first=4)
    assert done
    assert b.transport.link("a").messages_dropped == 0
    between.passes = bytes
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4, first=14)


async def test_a_ticket_opens_one_connection(tapped) -> None:
    a, b, between = tapped
    await exchange(a, b, 2)
    ticket = bytes(between.seen[:16])
    for shown in (ticket, bytes(16), os.urandom(4000)):
        reader, writer = await asyncio.open_connection("127.0.0.1", between.target)
        writer.write(shown + bytes(100))
        assert await hung_up(reader)
        writer.close()
    await exchange(a, b, 4, first=2)
    assert a.transport.link("b").bulk


async def test_strangers_that_say_nothing_are_bounded_and_shut_nobody_out(
    neighbourhood, reading, eventually
) -> None:
    neighbourhood.bulk_port = 0
    b = reading(await neighbourhood.start("b", "a"))
    port = b.transport._bulk.port
    strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    a = reading(await neighbourhood.start("a", "b"))
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4)
    for reader, writer in strangers:
        assert await hung_up(reader)
        writer.close()


async def test_a_neighbour_that_takes_no_bulk_is_served_by_curve(
    neighbourhood, reading, eventually
) -> None:
    b = reading(await neighbourhood.start("b", "a"))
    neighbourhood.bulk_port = 0
    a = reading(await neighbourhood.start("a", "b"))
    await eventually(lambda: b.transport.link("a").bulk)
    await exchange(a, b, 6)
    assert not a.transport.link("b").bulk


async def test_a_neighbour_that_restarts_offers_anew(
    neighbourhood, pair, reading, eventually
) -> None:
    a, b = pair
    await exchange(a, b, 4)
    await b.transport.close(0)
    await eventually(lambda: not a.transport.link("b").bulk)
    b = reading(await neighbourhood.start("b", "a"))
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4)


async def test_references_to_records_that_never_come_hold_nothing_up_for_long(pair) -> None:
    a, b = pair
    link = a.transport._links["b"]
    link.send_again = lambda of: None  # nor does it say that they are gone
    b.transport._limits = replace(LIMITS, bulk_again_s=0.5)
    for number in range(5000):  # more than is ever kept
        link.say(Reference(bytes(16), number), [b"header"])
        if number % 500 == 0:
            await asyncio.sleep(0.01)
    a.transport.post("b", [b"after"])
    assert await b.next() == [b"after"]
    assert b.transport._inbound["a"].early == 0


async def test_records_that_nothing_refers_to_are_not_read_beyond_a_bound(pair, eventually) -> None:
    a, b = pair
    bulk = a.transport._links["b"]._bulk
    entry = OutboxEntry((b"head", bytes(CHUNK)), 1)
    inbound = b.transport._inbound["a"]
    while inbound.early < LIMITS.early_records_max:
        if bulk.has_room:
            bulk.send(entry)
        await asyncio.sleep(0.001)
    while bulk.has_room:  # what the kernel takes
        bulk.send(entry)
        await asyncio.sleep(0.001)
    assert inbound.early == LIMITS.early_records_max
    bulk._waiting.clear()
    bulk._lost()  # and all of it goes with the connection's end, for the next reference
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4)
    assert inbound.early == 0


async def test_a_connection_whose_ticket_never_comes_holds_nothing_up_for_long(
    neighbourhood, reading, eventually
) -> None:
    """Somebody on the wire takes the connection, and passes on nothing from its first byte."""
    neighbourhood.bulk_port = 0
    b = reading(await neighbourhood.start("b", "a"))
    between = Between(passes=lambda data: b"")
    server = await between.run(b.transport._bulk.port)
    b.transport._bulk.port = server.sockets[0].getsockname()[1]
    a = reading(await neighbourhood.start("a", "b"))
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4)
    server.close()


async def test_an_offer_that_is_taken_back_holds_nothing_up(pair) -> None:
    a, b = pair
    offer = b.transport._bulk.offer("a")  # which a does not hear of, and takes all the same
    a.transport._links["b"].say(Reference(offer.ticket, 1), [b"header"])
    a.transport.post("b", [b"after"])
    await asyncio.sleep(0.1)
    b.transport._bulk.offer("a")
    assert await b.next() == [b"after"]


async def test_what_is_asked_for_again_is_sent_once(pair, eventually) -> None:
    a, b = pair
    a.transport.post("b", [b"head", bytes(CHUNK)], bulk_round=1)
    assert len(await b.next()) == 2
    link = a.transport._links["b"]
    (of,) = link._bulk._kept
    said = []
    link.say = lambda note, frames=(): said.append(len(frames))
    for _ in range(3):
        b.transport._links["a"].say(Again(of))
    await eventually(lambda: len(said) == 3)
    assert said == [2, 0, 0]


async def test_who_speaks_where_nothing_is_to_be_said_is_hung_up_on(pair, eventually) -> None:
    a, b = pair
    b.transport._bulk._connections["a"].socket.send(bytes(1000))
    await eventually(lambda: not a.transport.link("b").bulk)
    await eventually(lambda: a.transport.link("b").bulk)
    await exchange(a, b, 4)


async def test_offers_in_a_row_are_dialled_now_and_then_the_last_one_too(pair, eventually) -> None:
    a, b = pair
    dialled = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = b.transport._links["a"]
    for _ in range(50):
        link.say(Offer(bytes(32), port))
        await asyncio.sleep(0.01)
    link.say(b.transport._bulk.offer("a"))
    await eventually(lambda: "a" in b.transport._bulk._connections)
    assert dialled <= 4
    await exchange(a, b, 4)
    server.close()


async def test_a_record_that_trickles_is_not_waited_for(pair) -> None:
    a, b = pair
    listener = b.transport._bulk
    listener._limits = replace(LIMITS, bulk_record_s=0.3)
    offer = listener.offer("a")  # which a does not hear of
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(offer.ticket + (1000).to_bytes(4, "big"))
    ends = asyncio.create_task(hung_up(reader))
    async with asyncio.timeout(60):
        while not ends.done():
            writer.write(b"x")
            await asyncio.sleep(0.05)
    assert await ends
    writer.close()
    await exchange(a, b, 4)


async def test_a_port_that_is_taken_is_named_once() -> None:
    quiet = Handlers(lambda *_: None, lambda *_: None, lambda _: False)
    listeners = [BulkListener(LIMITS, lambda back: back, quiet, os.urandom) for _ in range(2)]
    with closing(listeners[0]), closing(listeners[1]):
        listeners[0].listen("127.0.0.1", 0)
        place = f"127.0.0.1:{listeners[0].port}"
        with pytest.raises(TransportError) as caught:
            listeners[1].listen("127.0.0.1", listeners[0].port)
        assert str(caught.value) == f"cannot listen for bulk on {place}: address already in use"
