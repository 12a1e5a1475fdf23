"""Heads travel until two that contradict each other meet; nothing else ever becomes a proof."""

import random
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.agent.core.settlement.hearsay import ROUNDS_HEARD, Hearsay
from candor.mechanisms.evidence.statements import STATEMENT_DOMAIN, Head, SignedStatement
from candor.mechanisms.proofs import EQUIVOCATION, verify_proof
from candor.topologies.encoding.canonical import sha256
from candor.topologies.encoding.signatures import SigningKey
from tests.honest import RUN, Ring, make_terms

AGENTS = tuple(f"a{i}" for i in range(9))
KEYS = {agent: SigningKey(sha256(agent.encode())) for agent in AGENTS}
TERMS = make_terms(publics={agent: key.public for agent, key in KEYS.items()})
LIAR = "a0"


def head(agent: str, number: int = 1, persona: int = 0, signer: str = "", run: bytes = RUN) -> Head:
    bare = Head(run, number, 0, agent, sha256(b"%d" % persona), bytes(64))
    return replace(bare, signature=KEYS[signer or agent].sign(STATEMENT_DOMAIN, bare.signed))


def said(agent: str, persona: int = 0, number: int = 1) -> SignedStatement:
    """A statement whose head is one of `head`."""

    class Said(SignedStatement):
        head = head(agent, number, persona)

    return Said(b"", b"", None)


def ring_of(heard: dict[str, Hearsay], graph: nx.Graph, order: random.Random) -> None:
    """Let news flow, in any order, until there is none."""
    while edges := [(a, b) for a in heard for b in graph[a] if b in heard]:
        order.shuffle(edges)
        if sum(_tell(heard, a, b) for a, b in edges) == 0:
            return


def _tell(heard: dict[str, Hearsay], sender: str, receiver: str) -> int:
    news = heard[sender].news(receiver)
    for one in news:
        heard[receiver].heard(sender, one)
    return len(news)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_two_personas_meet_wherever_honest_agents_connect_those_who_were_told(seed, told) -> None:
    order = random.Random(seed)
    graph = nx.relabel_nodes(nx.gnp_random_graph(9, 0.3, seed=seed), lambda i: f"a{i}")
    heard = {a: Hearsay(a, TERMS, graph[a]) for a in AGENTS if a != LIAR}
    personas = {peer: order.randrange(told) for peer in graph[LIAR]}
    for peer, persona in personas.items():
        heard[peer].stated(said(LIAR, persona))
    ring_of(heard, graph, order)
    honest = graph.subgraph(heard)
    for group in nx.connected_components(honest):
        proofs = [proof for agent in group for proof in heard[agent].take()]
        differ = len({personas[peer] for peer in group if peer in personas}) > 1
        assert bool(proofs) == differ
        for proof in proofs:
            verdict = verify_proof(proof, TERMS)
            assert (verdict.kind, verdict.agent, verdict.malice) == (EQUIVOCATION, LIAR, True)


@pytest.mark.parametrize(
    "false",
    [
        head(LIAR, persona=1, signer="a1"),
        head(LIAR, persona=1, run=bytes(32)),
        head(LIAR, 1 + ROUNDS_HEARD, persona=1),
        replace(head(LIAR, persona=1), agent="zz"),
        replace(head(LIAR, 2, persona=1), round=1),
        replace(head(LIAR, persona=1), phase=1),
    ],
)
def test_what_an_agent_has_not_signed_for_the_exchange_is_neither_proof_nor_passed_on(
    false,
) -> None:
    heard = Hearsay("a1", TERMS, ("a2", "a3", "a4"))
    heard.heard("a3", false)
    heard.heard("a2", head(LIAR))
    assert heard.take() == []
    assert heard.news("a4") == [head(LIAR)]
    assert heard.news("a2") == heard.news("a4") == []


def test_a_neighbour_names_one_head_of_an_exchange_and_no_more_is_verified() -> None:
    heard = Hearsay("a1", TERMS, ("a2", "a3"))
    heard.heard("a2", head(LIAR))
    heard.heard("a2", head(LIAR, persona=1))
    assert heard.take() == []
    heard.heard("a3", head(LIAR, persona=1))
    assert len(heard.take()) == 1


def test_nothing_is_told_to_who_said_it_and_nothing_twice() -> None:
    heard = Hearsay("a1", TERMS, ("a2", "a3"))
    heard.heard("a2", head(LIAR))
    heard.heard("a3", head(LIAR))
    heard.stated(said("a2"))
    assert heard.news("a2") == [head("a2")]  # what it said itself, in case that it forgets it
    assert heard.news("a3") == [head("a2")]
    assert heard.news("a2") == heard.news("a3") == []


def test_what_is_far_from_the_own_round_is_neither_kept_nor_told() -> None:
    heard = Hearsay("a1", TERMS, ("a2",))
    for number in (1, 100):
        heard.stated(said("a2", number=number))
        heard.heard("a2", head(LIAR, number))
    assert heard.memory("a2") == pack_of(head("a2", 100))
    heard.forget(100)
    assert heard.news("a2") == []
    heard.heard("a2", head(LIAR, 1, persona=1))
    assert heard.take() == []


@pytest.mark.parametrize(("away", "proofs"), [(ROUNDS_HEARD, 1), (ROUNDS_HEARD + 1, 0)])
def test_what_was_far_from_the_own_round_once_is_forgotten(away: int, proofs: int) -> None:
    """Heads of a run's rounds would fill the memory."""
    heard = Hearsay("a1", TERMS, ("a2", "a3"))
    heard.forget(1)
    heard.heard("a2", head(LIAR, 1))
    heard.forget(1 + away)
    heard.forget(1)
    heard.heard("a3", head(LIAR, 1, persona=1))
    assert len(heard.take()) == proofs


def pack_of(one: Head) -> bytes:
    other = Hearsay("zz", TERMS, (one.agent,))
    other.stated(said(one.agent, number=one.round))
    return other.memory(one.agent)


def test_an_agent_learns_what_it_has_forgotten_from_its_own_signature_alone() -> None:
    heard = Hearsay("a1", TERMS, ("a2",))
    heard.recall(pack_of(head("a2", 7)))
    heard.recall(b"")
    heard.recall(pack_of(head("a1", 7))[:-1])
    heard.heard("a2", head("a1", 7, signer="a2"))
    assert heard.forgotten_round == 0
    heard.recall(pack_of(head("a1", 7)))
    assert heard.forgotten_round == 7
    heard.heard("a2", head("a1", 8))
    assert heard.forgotten_round == 8
    heard.stating(20, 0)
    heard.recall(pack_of(head("a1", 20)))
    assert heard.forgotten_round == 8  # it is of this life


def test_statements_of_honest_agents_make_no_proof() -> None:
    ring = Ring().play(6)
    heard = Hearsay("zz", make_terms(), ring.signed[1])
    for t in ring.signed:
        for agent in ring.signed[t]:
            heard.stated(ring.signed[t][agent])
            for other in ring.signed[t]:
                heard.heard(other, ring.signed[t][agent].head)
    assert heard.take() == []
