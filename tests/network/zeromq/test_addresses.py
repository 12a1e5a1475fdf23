"""Hosts with several addresses, of either family: bound together, dialled one after the other."""

import socket
from collections.abc import Iterator

import pytest

from candor.network.errors import TransportError
from candor.network.transport import PeerAddress
from candor.network.zeromq.options import Route, routes
from candor.network.zeromq.transport import ZeroMqTransport


def _has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not _has_ipv6_loopback(), reason="this host has no IPv6 loopback")


def free(host: str = "127.0.0.1") -> str:
    """An endpoint of this host where nobody listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as probe:
        shown = f"[{host}]" if ":" in host else host
        return f"tcp://{shown}:{probe.getsockname()[1]}"


@pytest.fixture
def address(neighbourhood):
    """The address of an agent that may be reached at these endpoints, first one first."""

    def of(agent: str, *endpoints: str) -> PeerAddress:
        return PeerAddress(endpoints[0], neighbourhood.keys(agent)[0].decode(), endpoints[1:])

    return of


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody else's server, which takes connections and says nothing of ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def start_at(neighbourhood, agent: str, peer: PeerAddress, *binds: str) -> ZeroMqTransport:
    """`agent` listening at all of `binds`, with one neighbour, the other of a and b."""
    public, secret = (key.decode() for key in neighbourhood.keys(agent))
    transport = ZeroMqTransport(
        agent,
        binds[0],
        public,
        secret,
        {"b" if agent == "a" else "a": peer},
        neighbourhood.limits,
        other_binds=binds[1:],
    )
    await transport.start()
    neighbourhood._started.append(transport)
    return transport


async def say(sender: ZeroMqTransport, receiver: ZeroMqTransport, receive) -> None:
    sender.post(receiver.agent_id, [b"hello"])
    delivery = await receive(receiver)
    assert (delivery.sender, [bytes(frame) for frame in delivery.frames]) == (
        sender.agent_id,
        [b"hello"],
    )


@ipv6
async def test_two_agents_talk_over_ipv6(neighbourhood, address, receive) -> None:
    places = {agent: free("::1") for agent in "ab"}
    a = await start_at(neighbourhood, "a", address("b", places["b"]), places["a"])
    b = await start_at(neighbourhood, "b", address("a", places["a"]), places["b"])
    await say(a, b, receive)
    await say(b, a, receive)


@ipv6
async def test_one_agent_listens_at_both_families(neighbourhood, address, receive) -> None:
    four, six, own = free(), free("::1"), free()
    b = await start_at(neighbourhood, "b", address("a", own), four, six)
    for place in (four, six):
        a = await start_at(neighbourhood, "a", address("b", place), own)
        await say(a, b, receive)
        await a.close(0)


@ipv6
async def test_all_interfaces_are_those_of_both_families(neighbourhood, address, receive) -> None:
    own, port = free(), free().rpartition(":")[2]
    b = await start_at(neighbourhood, "b", address("a", own), f"tcp://*:{port}")
    for host in ("127.0.0.1", "[::1]", "localhost"):
        a = await start_at(neighbourhood, "a", address("b", f"tcp://{host}:{port}"), own)
        await say(a, b, receive)
        await a.close(0)


async def test_the_next_address_is_tried_when_nobody_answers(
    neighbourhood, address, receive, eventually
) -> None:
    dead, also_dead, alive, own = free(), free(), free(), free()
    peer = address("b", dead, also_dead, alive)
    a = await start_at(neighbourhood, "a", peer, own)
    await eventually(lambda: (a.link("b").reason or "").count("connection refused") >= 2)
    reason = a.link("b").reason or ""
    assert f"{dead}: connection refused" in reason
    assert "; " in reason
    b = await start_at(neighbourhood, "b", address("a", own), alive)
    await say(a, b, receive)
    assert a.link("b").reason is None


async def test_an_address_where_somebody_else_listens_is_left(
    neighbourhood, address, listener, receive
) -> None:
    foreign = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    stranger = free()
    # One holds another key than b's, one is silent, the third is b.
    await neighbourhood.start("c", "d")
    wrong = neighbourhood.endpoint("c")
    own = free()
    b = await start_at(neighbourhood, "b", address("a", own), stranger)
    a = await start_at(neighbourhood, "a", address("b", wrong, foreign, stranger), own)
    await say(a, b, receive)


async def test_a_peer_that_moves_to_its_other_address_is_found_again(
    neighbourhood, address, receive, eventually
) -> None:
    first, second, own = free(), free(), free()
    a = await start_at(neighbourhood, "a", address("b", first, second), own)
    for place in (first, second, first):
        b = await start_at(neighbourhood, "b", address("a", own), place)
        await say(a, b, receive)
        await b.close(0)
        await eventually(lambda: not a.link("b").connected)


async def test_messages_keep_their_order_with_both_addresses_alive(
    neighbourhood, address, receive
) -> None:
    first, second, own = free(), free(), free()
    a = await start_at(neighbourhood, "a", address("b", first, second), own)
    b = await start_at(neighbourhood, "b", address("a", own), first, second)
    for number in range(50):
        a.post("b", [b"%d" % number])
    heard = [bytes((await receive(b)).frames[0]) for _ in range(50)]
    assert heard == [b"%d" % number for number in range(50)]


async def test_a_second_address_that_is_taken_is_named(neighbourhood, address, listener) -> None:
    taken = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransportError, match=f"cannot listen on {taken}: address already in use"):
        await start_at(neighbourhood, "a", address("b", free()), free(), taken)


def test_a_name_is_tried_in_both_families_and_an_address_in_its_own() -> None:
    assert routes(["tcp://h.example:1", "tcp://[::1]:2", "tcp://127.0.0.1:3"]) == (
        Route("tcp://h.example:1", ipv6=False),
        Route("tcp://h.example:1", ipv6=True),
        Route("tcp://[::1]:2", ipv6=True),
        Route("tcp://127.0.0.1:3", ipv6=False),
    )
    with pytest.raises(TransportError, match="cannot dial tcp://h: an address looks like"):
        routes(["tcp://h"])
