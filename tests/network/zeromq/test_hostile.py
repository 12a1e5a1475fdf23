"""The transport against peers that break the rules, on real sockets."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from candor.network.transport import MIB, PeerAddress, TransportLimits
from candor.network.zeromq.options import bind, receiving_socket
from candor.network.zeromq.transport import ZeroMqTransport
from candor.network.zeromq.zap import ZapHandler
from tests.network.zeromq.raw_curve import SODIUM, RawCurveClient

SMALL = TransportLimits(chunk_bytes=64 * 1024, high_water_mark=2, frames_max=2)
bare_sockets = pytest.mark.skipif(
    SODIUM is None or sys.platform != "linux", reason="needs libsodium and Linux's TCP_INFO"
)
HANDSHAKE_FAILED = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
}


class RawClient:
    """A DEALER with whatever keys and options a test likes, and what its monitor saw."""

    def __init__(self, context, endpoint, keys=None, server=None, routing_id=None) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        if keys:
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, keys[0])
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys[1])
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, server)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._monitor = self.socket.get_monitor_socket()
        self._seen: set[int] = set()
        self.socket.connect(endpoint)

    def seen(self) -> set[int]:
        while self._monitor.poll(0):
            self._seen.add(int(parse_monitor_message(self._monitor.recv_multipart())["event"]))
        return self._seen

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)


@pytest.fixture
def raw(context, neighbourhood) -> Iterator:
    """Makes a raw client of agent b, by default with the keys of a."""
    clients = []

    def make(agent: str = "a", *, curve: bool = True, routing_id: bytes | None = None) -> RawClient:
        keys = neighbourhood.keys(agent) if curve else None
        client = RawClient(
            context,
            neighbourhood.endpoint("b"),
            keys,
            neighbourhood.keys("b")[0],
            routing_id,
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("curve", [True, False])
async def test_neither_an_unknown_key_nor_plain_text_ever_delivers(
    neighbourhood, receive, eventually, raw, curve: bool
) -> None:
    a, b = await neighbourhood.start("a", "b"), await neighbourhood.start("b", "a")
    for number in range(20):
        # A new client each time: libzmq's own gives up after a refusal.
        client = raw("stranger", curve=curve)
        client.socket.send_multipart([b"let me in"])
        await eventually(lambda client=client: bool(client.seen() & HANDSHAKE_FAILED))
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in client.seen()
        a.post("b", [b"%d" % number])
        delivery = await receive(b)
        assert (delivery.sender, delivery.frames) == ("a", (b"%d" % number,))
    assert b.link("a").messages_received == 20
    assert b.link("a").messages_dropped == 0


class _FailingZap(ZapHandler):
    failing = True
    asked = 0

    def authenticate(self, domain: bytes, mechanism: bytes, *credentials: bytes) -> str | None:
        self.asked += 1
        if self.failing:
            raise RuntimeError("the table is gone")
        return super().authenticate(domain, mechanism, *credentials)


async def test_an_exception_in_the_authentication_refuses_and_does_not_end_it(
    neighbourhood, context, raw, eventually
) -> None:
    loop = asyncio.get_running_loop()
    zap = _FailingZap(context, {"a": neighbourhood.keys("a")[0].decode()})
    zap.start(loop)
    public, secret = (key.decode() for key in neighbourhood.keys("b"))
    endpoint = neighbourhood.endpoint("b")
    router = receiving_socket(context, endpoint, public, secret, TransportLimits())
    bind(router, endpoint)
    first = raw()
    first.socket.send(b"x")
    await eventually(lambda: zmq.EVENT_HANDSHAKE_FAILED_AUTH in first.seen())
    assert zap.asked == 1
    assert not router.poll(0)
    zap.failing = False
    second = raw()
    second.socket.send(b"y")
    await eventually(lambda: bool(router.poll(0)))
    assert router.recv_multipart()[1:] == [b"y"]
    zap.close(loop)
    router.close(0)


async def test_without_an_authentication_handler_nobody_gets_in(
    neighbourhood, context, raw, eventually
) -> None:
    public, secret = (key.decode() for key in neighbourhood.keys("b"))
    endpoint = neighbourhood.endpoint("b")
    router = receiving_socket(context, endpoint, public, secret, TransportLimits())
    bind(router, endpoint)
    client = raw()
    client.socket.send(b"x")
    await eventually(lambda: bool(client.seen() & HANDSHAKE_FAILED))
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in client.seen()
    assert not router.poll(0)
    router.close(0)


async def test_a_claimed_routing_id_neither_changes_the_sender_nor_harms_its_owner(
    neighbourhood, receive, raw
) -> None:
    b = await neighbourhood.start("b", "victim", "mallory")
    # Both claim the name "victim"; mallory comes first, which is when libzmq favours it.
    mallory = raw("mallory", routing_id=b"victim")
    mallory.socket.send(b"I am the victim")
    assert (await receive(b)).sender == "mallory"
    victim = await neighbourhood.start("victim", "b")
    for number in range(20):
        victim.post("b", [b"%d" % number])
        delivery = await receive(b)
        assert (delivery.sender, delivery.frames) == ("victim", (b"%d" % number,))
    mallory.socket.send(b"still me")
    assert (await receive(b)).sender == "mallory"


async def test_an_oversize_frame_closes_the_connection_and_is_not_delivered(
    neighbourhood, receive, eventually, raw
) -> None:
    b = await neighbourhood.start("b", "a", "c", limits=SMALL)
    client = raw()
    client.socket.send(bytes(SMALL.message_bytes_max))
    assert len((await receive(b)).frames[0]) == SMALL.message_bytes_max
    client.socket.send(bytes(SMALL.message_bytes_max + 4096))
    await eventually(lambda: zmq.EVENT_DISCONNECTED in client.seen())
    c = await neighbourhood.start("c", "b", limits=SMALL)
    c.post("b", [b"served"])
    assert (await receive(b)).sender == "c"
    assert b.link("a").messages_received == 1


async def test_a_frame_between_the_limit_and_the_library_s_is_dropped_and_counted(
    neighbourhood, receive, raw
) -> None:
    b = await neighbourhood.start("b", "a", limits=SMALL)
    client = raw()
    client.socket.send(bytes(SMALL.message_bytes_max + 1))
    client.socket.send(b"next")
    assert (await receive(b)).frames == (b"next",)
    assert b.link("a").messages_dropped == 1


async def test_too_many_frames_are_dropped_and_counted_against_the_sender(
    neighbourhood, receive, raw
) -> None:
    b = await neighbourhood.start("b", "a", "c", limits=SMALL)
    client = raw()
    client.socket.send_multipart([b"1", b"2", b"3"])
    client.socket.send_multipart([b"1", b"2"])
    assert (await receive(b)).frames == (b"1", b"2")
    assert b.link("a").messages_dropped == 1
    assert b.link("a").messages_received == 1
    assert b.link("c").messages_dropped == 0


@contextlib.contextmanager
def bare(neighbourhood, agent: str = "a") -> Iterator[RawCurveClient]:
    """A connection to b of one who holds the keys of `agent`, on a bare socket."""
    client = RawCurveClient(
        neighbourhood.endpoint("b"), neighbourhood.keys(agent), neighbourhood.keys("b")[0]
    )
    try:
        yield client
    finally:
        client.close()


@bare_sockets
@pytest.mark.parametrize(
    ("frame", "sent_bytes_max"), [(b"", 4 * MIB), (bytes(64 * 1024), 64 * MIB)]
)
async def test_a_message_without_end_is_cut_off_and_others_are_served(
    neighbourhood, receive, eventually, frame: bytes, sent_bytes_max: int
) -> None:
    """What is sent before the cut is what arrives between two sweeps: it depends on the machine."""
    b = await neighbourhood.start("b", "a", "c", limits=SMALL)
    told = neighbourhood.told["b"]
    waiting = asyncio.create_task(receive(b))

    def flood() -> int:
        sent = 0
        with bare(neighbourhood) as client:
            while sent < sent_bytes_max:
                part = b"".join(client.frame(frame, more=True) for _ in range(100))
                if not client.send(part):
                    break
                sent += len(part)
        return sent

    assert await asyncio.to_thread(flood) < sent_bytes_max
    [(event, fields)] = told
    assert (event, fields["peer"]) == ("connection_cut", "a")
    c = await neighbourhood.start("c", "b", limits=SMALL)
    c.post("b", [b"served"])
    assert (await waiting).sender == "c"
    assert b.link("a").messages_received == 0


@bare_sockets
async def test_one_key_has_so_many_connections_however_many_it_opens(
    neighbourhood, receive, eventually
) -> None:
    """Silent ones are refused beyond the limit, and cut in time; of others, the oldest goes."""
    limits = replace(SMALL, first_message_s=1.0)
    b = await neighbourhood.start("b", "a", limits=limits)

    def connect(stack: contextlib.ExitStack) -> RawCurveClient | None:
        try:
            return stack.enter_context(bare(neighbourhood))
        except OSError:
            return None

    with contextlib.ExitStack() as stack:
        silent = [await asyncio.to_thread(connect, stack) for _ in range(20)]
        let_in = [client for client in silent if client is not None]
        assert 1 <= len(let_in) <= limits.connections_max
        assert ("connection_refused", "a") in [
            (event, fields["peer"]) for event, fields in neighbourhood.told["b"]
        ]
        for client in let_in:
            assert await asyncio.to_thread(client.socket.recv, 1) == b""
        speaking = []
        for number in range(2 * limits.connections_max):
            client = await asyncio.to_thread(connect, stack)
            assert client is not None
            speaking.append(client)
            assert client.send(client.frame(b"%d" % number, more=False))
            assert (await receive(b)).frames == (b"%d" % number,)
        for client in speaking[: limits.connections_max]:
            assert await asyncio.to_thread(client.socket.recv, 1) == b""
        for client in speaking[limits.connections_max :]:
            assert client.send(client.frame(b"still here", more=False))
            assert (await receive(b)).frames == (b"still here",)


async def test_a_flood_of_tiny_frames_in_whole_messages_is_dropped_frame_by_frame(
    neighbourhood, receive, raw
) -> None:
    b = await neighbourhood.start("b", "a")
    client = raw()
    client.socket.send_multipart([b""] * 10_000)
    client.socket.send(b"next")
    assert (await receive(b)).frames == (b"next",)
    assert b.link("a").messages_dropped == 1


async def test_who_floods_is_cut_off_for_a_while_and_others_are_served(
    neighbourhood, receive, raw, eventually
) -> None:
    limits = TransportLimits(messages_burst=200.0, messages_per_s_max=100.0, hang_up_s=1.0)
    b = await neighbourhood.start("b", "a", "c", limits=limits)
    client = raw()
    taken = 0

    async def flooded() -> bool:
        nonlocal taken
        with contextlib.suppress(zmq.Again):
            while True:
                client.socket.send(b"junk", zmq.NOBLOCK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    await b.receive()
                    taken += 1
        return bool(neighbourhood.told["b"])

    while not await flooded():
        pass
    [(event, fields)] = neighbourhood.told["b"]
    assert (event, fields["peer"]) == ("connection_cut", "a")
    c = await neighbourhood.start("c", "b", limits=limits)
    c.post("b", [b"served"])
    while (delivery := await receive(b)).sender != "c":  # what had been read before
        pass
    assert delivery.frames == (b"served",)
    # And comes back once the time is over.
    a = await neighbourhood.start("a", "b", limits=limits)
    a.post("b", [b"sorry"])
    while (await receive(b)).frames != (b"sorry",):
        pass


@bare_sockets
async def test_a_daemon_s_memory_is_bounded_in_a_flood_and_comes_back(
    neighbourhood, eventually
) -> None:
    """Of 320 MiB that 40 connections leave unfinished a process of its own holds what a neighbour
    may make it hold, and what comes between two looks; then nothing. Strangers leave nothing."""
    code = "import sys; from tests.network.zeromq.test_hostile import serve; serve(sys.argv[1:])"
    words = [neighbourhood.endpoint("b"), *(key.decode() for key in neighbourhood.keys("b"))]
    words.append(neighbourhood.keys("a")[0].decode())
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            await asyncio.to_thread(server.stdout.readline)
            await asyncio.to_thread(_refused, neighbourhood, 20)
            before = _resident_bytes(server.pid)
            await asyncio.to_thread(_refused, neighbourhood, 300)
            assert _resident_bytes(server.pid) - before < 4 * MIB
            await asyncio.to_thread(_flood_from_many, neighbourhood)
            bound = TransportLimits().undelivered_bytes_max + 128 * MIB
            assert _resident_bytes(server.pid, "VmHWM") - before < bound
            await eventually(lambda: _resident_bytes(server.pid) - before < 48 * MIB)
        finally:
            server.kill()


def serve(words: list[str]) -> None:
    """Receive as agent b until killed: endpoint, keys of b, public key of a."""

    async def run() -> None:
        endpoint, public, secret, peer = words
        address = PeerAddress("tcp://127.0.0.1:1", peer)
        transport = ZeroMqTransport("b", endpoint, public, secret, {"a": address})
        await transport.start()
        print("listening", flush=True)
        while True:
            await transport.receive()

    asyncio.run(run())


def _flood_from_many(neighbourhood) -> None:
    """40 connections that each leave 8 MiB of a message, in one thread after the other."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            with contextlib.suppress(OSError):
                client = stack.enter_context(bare(neighbourhood))
                for _ in range(128):
                    if not client.send(client.frame(bytes(64 * 1024), more=True)):
                        break


def _refused(neighbourhood, times: int) -> None:
    """So many handshakes with a key that b does not know."""
    for _ in range(times):
        with pytest.raises(OSError), bare(neighbourhood, "stranger"):  # noqa: PT011  whichever
            pass


def _resident_bytes(pid: int, which: str = "VmRSS") -> int:
    """Of a process; `VmHWM`: the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith(f"{which}:")]
    return int(found) * 1024


async def test_a_peer_that_answers_on_the_sending_socket_is_cut_off(
    neighbourhood, context, eventually
) -> None:
    a_public = neighbourhood.keys("a")[0]
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.CURVE_SECRETKEY, neighbourhood.keys("b")[1])
    router.bind(neighbourhood.endpoint("b"))
    a = await neighbourhood.start("a", "b")
    assert a_public
    a.post("b", [b"hello"])
    await eventually(lambda: bool(router.poll(0)))
    name, _ = router.recv_multipart()
    router.send_multipart([name, bytes(1024 * 1024)])
    await eventually(lambda: a.link("b").reason == "connection lost")
    # libzmq gives such a connection up for good; the link dials again by itself.
    await eventually(lambda: a.link("b").connected)
    router.close(0)


async def test_a_refusal_is_explained_and_ends_when_they_learn_our_key(
    neighbourhood, receive, eventually
) -> None:
    b = await neighbourhood.start("b", "c")
    a = await neighbourhood.start("a", "b")
    await eventually(lambda: "they do not know our key" in str(a.link("b").reason))
    await b.close(0)
    b = await neighbourhood.start("b", "a")
    a.post("b", [b"known now"])
    assert (await receive(b)).sender == "a"


async def test_a_wrong_key_of_theirs_is_explained(neighbourhood, eventually) -> None:
    await neighbourhood.start("b", "a")
    other = neighbourhood.address("other").curve_public
    impostor = replace(neighbourhood.address("b"), curve_public=other)
    a = await neighbourhood.start_with("a", {"b": impostor})
    await eventually(lambda: "the key they hold is not the one" in str(a.link("b").reason))
    assert not a.link("b").connected


async def test_something_that_speaks_another_protocol_is_explained(
    neighbourhood, eventually
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    key = neighbourhood.address("b").curve_public
    a = await neighbourhood.start_with("a", {"b": PeerAddress(f"tcp://127.0.0.1:{port}", key)})
    await eventually(lambda: "does not speak our protocol" in str(a.link("b").reason))
    await a.close(0)
    server.close()
    await server.wait_closed()
