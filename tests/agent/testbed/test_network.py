"""Faults of the network as they come and go, on a proxy between four agents."""

from collections.abc import Iterator

import pytest

from candor.agent.testbed.faults import Fault
from candor.agent.testbed.network import Network
from candor.agent.testbed.proxy import Ports, Proxy
from candor.agent.testbed.testbed import free_ports

AGENTS = ("a0", "a1", "a2", "a3")
EDGES = (("a0", "a1"), ("a1", "a2"), ("a2", "a3"), ("a3", "a0"))
HALVES = (("a0", "a1"), ("a2", "a3"))


@pytest.fixture
def network() -> Iterator[Network]:
    """A ring."""
    pairs = [pair for u, v in EDGES for pair in ((u, v), (v, u))]
    ports = free_ports(len(pairs) + 1)
    proxy = Proxy({pair: Ports(port, ports[-1]) for pair, port in zip(pairs, ports, strict=False)})
    proxy.start()
    yield Network(proxy)
    proxy.close()


def do(network: Network, fault: Fault) -> str:
    return network.perform(fault, " ".join)


def on(action: str, *agents: str, amount: float | None = None) -> Fault:
    return Fault(action, agents, 1, None, amount=amount)


def end(fault: Fault) -> Fault:
    return Fault("end", fault.agents, 2, None, of=fault)


def cut(network: Network) -> set[tuple[str, str]]:
    return {edge for edge in EDGES if network.proxy.conditions[edge].cut}


def test_the_end_of_a_partition_leaves_another_one_as_it_is(network: Network) -> None:
    first = Fault("partition", AGENTS, 1, None, HALVES)
    second = Fault("partition", AGENTS, 1, None, (("a3",), ("a0", "a1", "a2")))
    assert do(network, first) == "a0 a1 | a2 a3 cut, 2 edges"
    assert cut(network) == {("a1", "a2"), ("a3", "a0")}
    assert do(network, second) == "a3 | a0 a1 a2 cut, 1 edge"
    assert cut(network) == {("a1", "a2"), ("a3", "a0"), ("a2", "a3")}
    assert do(network, end(first)) == "a0 a1 a2 a3: partition over, 1 edge"
    assert cut(network) == {("a3", "a0"), ("a2", "a3")}
    assert do(network, on("heal", "a3")) == "a3 healed, 2 edges"
    assert not cut(network)
    assert do(network, end(second)) == "a0 a1 a2 a3: partition over, 0 edges"


def test_two_events_that_are_alike_end_each_at_its_time(network: Network) -> None:
    first, second = on("delay", "a1", amount=0.25), on("delay", "a1", amount=0.25)
    for fault in (first, second):
        assert do(network, fault) == "a1 0.25 s farther away, 2 edges"
    assert network.proxy.conditions["a0", "a1"].delay_s == 0.5
    assert do(network, end(second)) == "a1: delay over, 2 edges"
    assert network.proxy.conditions["a0", "a1"].delay_s == 0.25
    do(network, end(first))
    assert network.proxy.conditions["a0", "a1"].delay_s == 0.0


def test_who_is_healed_is_so_of_everything(network: Network) -> None:
    assert do(network, on("corrupt", "a0", "a1")) == "a0 a1 garbled, 3 edges"
    assert do(network, on("loss", "a0", amount=0.05)) == "a0 losing 5.0% of the segments, 2 edges"
    assert (
        do(network, on("bandwidth", "a0", amount=65536))
        == "a0 limited to 65536 bytes a second, 2 edges"
    )
    do(network, on("heal", "a0"))
    conditions = network.proxy.conditions
    assert conditions["a0", "a3"] == conditions["a2", "a3"]
    assert conditions["a1", "a2"].garbled
    do(network, on("heal", *AGENTS))
    assert len(set(conditions := list(network.proxy.conditions.values()))) == 1, conditions
