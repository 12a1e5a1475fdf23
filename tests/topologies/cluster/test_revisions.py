"""Revisions: signed, numbered, chained; members come and go, the graph is drawn anew."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candor.topologies.cluster.file import (
    Cluster,
    Revision,
    RoundSettings,
    TaskSettings,
    assemble_cluster,
    dump_cluster,
    load_cluster,
    model_digest,
    signed,
)
from candor.topologies.cluster.graph_section import draw, redrawn
from candor.topologies.cluster.requests import JoinRequest, make_request
from candor.topologies.cluster.revisions import amended, check_succession, first_revision
from candor.topologies.encoding import z85
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from tests.golden import assert_golden
from tests.independent import wire

ORGANISER = SigningKey(bytes(32))
OTHER = SigningKey(b"other organiser's seed".ljust(32))
DIGEST = model_digest(np.zeros(3, dtype=np.float32))


def request(agent: str, organiser: SigningKey = ORGANISER, **changes: Any) -> JoinRequest:
    seed = hashlib.sha256(agent.encode()).digest()
    fields: dict[str, Any] = {
        "organiser": organiser.public.hex(),
        "agent": agent,
        "curve": z85.encode(seed),
        "endpoints": [f"tcp://{agent}.example:7000", f"tcp://[2001:db8::{seed[0]:x}]:7000"],
        "serial": 1,
    }
    return make_request(SigningKey(seed), **(fields | changes))


def make(
    ids: str = "abcd",
    topology: str = "ring",
    organiser: SigningKey = ORGANISER,
    seed: int = 7,
    mixing_name: str | None = None,
    weights: Sequence[float] = (),
) -> Cluster:
    declared = weights or [None] * len(ids)
    asked = zip(ids, declared, strict=True)
    agents = [request(agent, organiser, weight=weight).agent for agent, weight in asked]
    return signed(
        assemble_cluster(
            run_id="demo",
            seed=seed,
            graph=draw(topology, list(ids), seed),
            mixing_name=mixing_name,
            agents=agents,
            task=TaskSettings(name="digits", parameters=3, model_digest=DIGEST),
            rounds=RoundSettings(rounds=20),
            revision=first_revision(organiser),
        ),
        organiser,
    )


def reload(cluster: Cluster, directory: Path, edit: Callable[[str], str] = str) -> Cluster:
    path = directory / "c.toml"
    path.write_text(edit(dump_cluster(cluster)))
    return load_cluster(path)


# --- signed files -------------------------------------------------------------------------------


def test_the_golden_revision_keeps_its_bytes(tmp_path: Path) -> None:
    second = amended(make(), ORGANISER, joining=[request("e")])
    assert reload(second, tmp_path) == second
    assert_golden(
        "revision.json",
        {
            "about": "A second revision; `signature` is over candor/organiser/v1 || fingerprint.",
            "organiser_seed": bytes(32).hex(),
            "fingerprint": second.fingerprint,
            "signature": second.signature,
            "toml": dump_cluster(second),
        },
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", "seed = 8", "the organiser .* did not sign this"),
        ("rounds = 20", "rounds = 21", "the organiser .* did not sign this"),
        ('["a", "b"]', '["a", "c"]', "the organiser .* did not sign this"),
        ("number = 2", "number = 3", "the organiser .* did not sign this"),
        ("a.example:7000", "evil.example:7000", "agent 'a': its keys did not sign this entry"),
        (ORGANISER.public.hex(), OTHER.public.hex(), "its keys did not sign this entry"),
        ("signature = ", "# ", "without the organiser's signature"),
        ("number = 2", "number = 1", "revision 1 has no previous one"),
        ("previous = ", "# ", "every later one has"),
    ],
)
def test_a_tampered_file_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    second = amended(make(), ORGANISER, joining=[request("e")])
    assert old in dump_cluster(second)
    with pytest.raises(ConfigurationError, match=message) as told:
        reload(second, tmp_path, lambda text: text.replace(old, new, 1))
    assert "\n" not in str(told.value)
    chain = "previous one" in message or "every later" in message
    assert isinstance(told.value, SignatureError) != chain  # exit code 3 or 2


SECOND = amended(make(), ORGANISER, joining=[request("e")])


@given(st.data())
def test_any_change_of_a_byte_is_refused_or_means_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cluster") / "c.toml"
    content = bytearray(dump_cluster(SECOND).encode())
    position = data.draw(st.integers(0, len(content) - 1))
    size = data.draw(st.integers(0, 3))
    content[position : position + size] = data.draw(st.binary(min_size=1, max_size=3))
    path.write_bytes(content)
    told = ""
    try:
        read = load_cluster(path)
    except ConfigurationError as exc:
        told, read = str(exc), SECOND
    assert read == SECOND  # else it was a comment or a space
    assert "\n" not in told


def test_an_entry_that_its_agent_did_not_sign_is_refused(tmp_path: Path) -> None:
    def strip(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if not line.startswith("join"))

    with pytest.raises(SignatureError, match="agent 'a' did not sign its entry"):
        reload(make(), tmp_path, strip)


def test_signatures_without_their_revision_are_refused(tmp_path: Path) -> None:
    def strip(text: str) -> str:
        head, _, rest = text.partition("[revision]\n")
        return head + rest[rest.index("[graph]") :]

    with pytest.raises(SignatureError, match="it was taken out"):
        reload(make(), tmp_path, strip)


def test_only_the_organiser_can_sign() -> None:
    unsigned = make().model_copy(update={"signature": None})
    with pytest.raises(SignatureError, match="did not sign this"):
        signed(unsigned, OTHER)


@pytest.mark.timeout(10)
def test_a_pipe_is_no_cluster_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        load_cluster(tmp_path / "c.toml")


def test_an_address_belongs_to_one_agent() -> None:
    double = request("e", endpoints=["tcp://e.example:1", "tcp://A.example:7000"])
    with pytest.raises(ConfigurationError, match="'a' and 'e' have the same endpoint"):
        amended(make(), ORGANISER, joining=[double])
    twice = request("e", endpoints=["tcp://e.example:1", "tcp://e.example:1"])
    with pytest.raises(ConfigurationError, match="'e' has twice the same endpoint"):
        amended(make(), ORGANISER, joining=[twice])


# --- members come and go ------------------------------------------------------------------------


def test_a_revision_names_the_one_before() -> None:
    first = make()
    second = amended(first, ORGANISER, joining=[request("e")], leaving=["b"])
    assert first.revision == Revision(number=1, organiser=ORGANISER.public.hex())
    assert second.revision == Revision(
        number=2,
        organiser=ORGANISER.public.hex(),
        previous=first.fingerprint,
        departed=((first.agent("b").identity, 1),),
    )
    assert second.ids == ("a", "c", "d", "e")
    assert second.neighbours("e") == ("a", "d")
    same = {"run_id", "seed", "task", "algorithm", "rounds", "payments"}
    assert second.model_dump(include=same) == first.model_dump(include=same)


def test_a_new_request_of_a_member_replaces_its_entry() -> None:
    moved = request("b", endpoints=["tcp://new.example:7000"], serial=2)
    first = make()
    second = amended(first, ORGANISER, joining=[moved])
    assert second.ids == first.ids
    assert second.agent("b").endpoint == "tcp://new.example:7000"
    assert second.graph == first.graph


SPECS = [
    "ring",
    "complete",
    "star",
    "random-matching",
    "random-matching:base=ring",
    "rotating:base=complete,parts=3",
    "failing:base=ring,p=0.2",
    "round-robin:ring + star",
    "one-peer-exponential",
    "directed-ring",
    "directed-random:degree=2",
]


@given(st.sampled_from(SPECS), st.data())
def test_any_change_draws_the_same_graph_as_a_new_file(topology: str, data: st.DataObject) -> None:
    leaving = data.draw(st.sets(st.sampled_from("abcdef"), max_size=3))
    joining = data.draw(st.sets(st.sampled_from("uvwxyz"), min_size=1, max_size=4))
    first = make("abcdef", topology)
    second = amended(
        first,
        ORGANISER,
        joining=[request(agent) for agent in sorted(joining)],
        leaving=sorted(leaving),
    )
    ids = "".join(agent for agent in "abcdef" if agent not in leaving) + "".join(sorted(joining))
    assert second.graph == make(ids, topology).graph
    check_succession(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing would change"),
        ({"leaving": ["zed"]}, "no agent 'zed'"),
        ({"leaving": list("abcd")}, "nobody would be left"),
        ({"joining": [request("a")]}, "nothing would change"),
        ({"joining": [request("e"), request("e")]}, "two requests of agent 'e'"),
        ({"joining": [request("e", OTHER)]}, "'e' is for the organiser"),
        ({"joining": [request("e")], "topology": "torus:rows=2,cols=9"}, "torus"),
    ],
)
def test_a_change_that_cannot_be_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        amended(make(), ORGANISER, **changes)


def test_an_id_that_is_taken_stays_with_its_identity() -> None:
    seed = hashlib.sha256(b"thief").digest()
    thief = make_request(
        SigningKey(seed),
        organiser=ORGANISER.public.hex(),
        agent="a",
        curve=z85.encode(seed),
        endpoints=["tcp://thief.example:1"],
        serial=2,
    )
    with pytest.raises(ConfigurationError, match="is in already, with another identity"):
        amended(make(), ORGANISER, joining=[thief])
    assert amended(make(), ORGANISER, joining=[thief], leaving=["a"]).ids == ("b", "c", "d", "a")


def moved(agent: str, serial: int) -> JoinRequest:
    return request(agent, endpoints=[f"tcp://place-{serial}.example:7000"], serial=serial)


def test_an_old_request_does_not_come_back() -> None:
    first = make()
    third = amended(first, ORGANISER, joining=[moved("b", 3)])
    for outdated in (request("b"), moved("b", 2), request("b", serial=3)):
        for changes in ({}, {"leaving": ["b"]}):  # leaving first is no way round
            with pytest.raises(ConfigurationError, match="of agent 'b' is not later"):
                amended(third, ORGANISER, joining=[outdated], **changes)
    assert amended(third, ORGANISER, joining=[moved("b", 3), request("e")]).ids == tuple("abcde")
    assert amended(third, ORGANISER, joining=[moved("b", 4)]).agent("b").serial == 4


def test_only_the_same_organiser_goes_on() -> None:
    with pytest.raises(ConfigurationError, match="only the same one may go on"):
        amended(make(), OTHER, leaving=["a"])


def test_an_unsigned_file_has_no_revisions() -> None:
    agents = [entry.model_dump(exclude={"join", "serial"}) for entry in make().agents]
    fields = make().model_dump() | {"agents": agents, "revision": None, "signature": None}
    unsigned = Cluster.model_validate(fields)
    with pytest.raises(ConfigurationError, match="is not signed and has no revisions"):
        amended(unsigned, ORGANISER, leaving=["a"])


def test_a_file_of_turns_knows_its_agents_by_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one.edges", tmp_path / "two.edges"
    one.write_text("a b\nb c\nc d\n")
    two.write_text("a d\nb c\nc a\n")
    spec = f"round-robin:{one} + {two}"
    first = make("dcba", spec)
    assert set(first.round_weights.graph(1).edges) == {("b", "a"), ("c", "b"), ("d", "c")}
    with pytest.raises(ConfigurationError, match="cannot be drawn again for 3 agents"):
        amended(first, ORGANISER, leaving=["a"])
    with pytest.raises(ConfigurationError, match="agent 'd' has no keys"):
        make("abcx", spec)


def test_a_family_that_does_not_fit_asks_for_another() -> None:
    first = make("abcd", "hypercube")
    with pytest.raises(ConfigurationError, match="cannot be drawn again for 3 agents.*--topology"):
        amended(first, ORGANISER, leaving=["a"])
    other = amended(first, ORGANISER, leaving=["a"], topology="ring")
    assert other.graph.topology == "ring"


def test_what_a_file_names_is_neither_read_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "payload.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "t.toml"
    edges = 'agents = ["a", "b", "c"]\nedges = [["a", "b"], ["b", "c"]]\n'
    file.write_text(f'topology = "payload:f"\n{edges}')
    first = make("abc", str(file))
    assert first.graph.topology == str(file)
    texts = ("payload:f", "round-robin:ring + payload:f", "rotating:base=payload:f", str(file))
    for text in texts:
        graph = first.graph.model_copy(update={"topology": text})
        with pytest.raises(ConfigurationError, match="neither read nor run; give one with --topo"):
            redrawn(graph, "abc", "bc", 7)
    assert not ran.exists()
    assert amended(first, ORGANISER, leaving=["a"], topology="path").ids == ("b", "c")


def test_edges_listed_by_hand_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        'topology = "ring"\nagents = ["a", "b", "c", "d"]\n'
        'edges = [["a", "b"], ["b", "c"], ["c", "d"], ["a", "d"], ["a", "c"]]\n'
    )
    first = make("abcd", str(file))
    with pytest.raises(ConfigurationError, match="listed by hand.*--topology"):
        amended(first, ORGANISER, leaving=["a"])
    line = tmp_path / "line.edges"
    line.write_text("b c\nc d\n")
    second = amended(first, ORGANISER, leaving=["a"], topology=str(line))
    assert nx.utils.edges_equal(second.networkx_graph().edges, [("b", "c"), ("c", "d")])
    line.write_text("b c\nc x\n")
    with pytest.raises(ConfigurationError, match="'d' has keys but is not in the topology"):
        amended(first, ORGANISER, leaving=["a"], topology=str(line))


def test_a_random_graph_is_drawn_from_the_runs_seed() -> None:
    first = make("abcdef", "random-regular:degree=3")
    second = amended(first, ORGANISER, leaving=["f"], joining=[request("g")])
    assert second.graph == make("abcdeg", "random-regular:degree=3").graph


# --- mixing over revisions ----------------------------------------------------------------------


def test_weights_of_a_rule_are_computed_anew() -> None:
    first = make("abcd", mixing_name="best-constant")
    second = amended(first, ORGANISER, joining=[request("e")])
    assert second.graph == make("abcde", mixing_name="best-constant").graph
    assert second.graph.weights[0] != first.graph.weights[0]


def test_a_given_matrix_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("0.5,0.2,0.3\n0.3,0.5,0.2\n0.2,0.3,0.5\n")
    first = make("abc", mixing_name=str(path))
    moved = request("b", endpoints=["tcp://new.example:7000"], serial=2)
    assert amended(first, ORGANISER, joining=[moved]).graph == first.graph
    for changes in ({"leaving": ["a"]}, {"topology": "path"}):
        with pytest.raises(ConfigurationError, match="matrix was given .*--mixing NAME|FILE"):
            amended(first, ORGANISER, **changes)
    path.write_text("0.25,0.75\n0.75,0.25\n")
    second = amended(first, ORGANISER, leaving=["a"], mixing_name=str(path))
    np.testing.assert_allclose(second.mixing_matrix(), [[0.25, 0.75], [0.75, 0.25]])


def test_a_mixing_can_change_alone() -> None:
    second = amended(make(), ORGANISER, mixing_name="lazy")
    assert second.graph == make(mixing_name="lazy").graph


def test_a_directed_graph_brings_push_sum_along_and_a_mixing_takes_it_away() -> None:
    first = make("abcd", mixing_name="lazy")
    pushed = amended(first, ORGANISER, topology="directed-ring")
    assert (pushed.graph.mixing, pushed.algorithm.name) == ("push-sum", "gradient-push")
    kept = amended(pushed, ORGANISER, topology="ring")
    assert (kept.graph.mixing, kept.algorithm.name) == ("push-sum", "gradient-push")
    back = amended(kept, ORGANISER, mixing_name="lazy")
    assert (back.graph, back.algorithm) == (first.graph, first.algorithm)


def test_turns_that_were_changed_by_hand_are_not_guessed() -> None:
    first = make("abcd", "one-peer-exponential")
    graph = first.graph.model_dump() | {"turns": tuple(reversed(first.graph.turns))}
    fields = first.model_dump() | {"graph": graph, "signature": None}
    changed = signed(Cluster.model_validate(fields), ORGANISER)
    with pytest.raises(ConfigurationError, match="listed by hand.*--topology"):
        amended(changed, ORGANISER, leaving=["a"])


# --- which file may follow which ----------------------------------------------------------------


def test_later_revisions_may_follow_and_earlier_ones_not() -> None:
    first = make()
    second = amended(first, ORGANISER, leaving=["a"])
    third = amended(second, ORGANISER, leaving=["b"])
    for old, new in ((first, first), (first, second), (second, third), (first, third)):
        check_succession(old, new)
    with pytest.raises(SignatureError, match="it is revision 1, and revision 3 was in use"):
        check_succession(third, first)


def test_two_files_of_one_number_are_told() -> None:
    first = make()
    one = amended(first, ORGANISER, leaving=["a"])
    other = amended(first, ORGANISER, leaving=["b"])
    with pytest.raises(SignatureError, match="two different files as revision 2"):
        check_succession(one, other)
    with pytest.raises(SignatureError, match="revision 3 does not follow revision 2"):
        check_succession(one, amended(other, ORGANISER, leaving=["c"]))


def test_a_revision_with_an_agents_earlier_request_does_not_follow() -> None:
    first = make()
    second = amended(first, ORGANISER, joining=[moved("b", 3)])
    third = altered(second, {"agents": first.agents}, number=3)
    with pytest.raises(SignatureError, match="revision 3 has an earlier request of agent 'b'"):
        check_succession(second, third)
    check_succession(first, third)  # which has never seen another


def test_an_agent_that_left_does_not_come_back_by_an_earlier_request(tmp_path: Path) -> None:
    """Neither with the organiser's tool nor, where the organiser makes a file by other means, at a
    host that holds nothing but a revision without the agent."""
    second = amended(make(), ORGANISER, joining=[moved("b", 3)])
    gone = amended(second, ORGANISER, leaving=["b"])
    assert gone.revision is not None
    assert gone.revision.departed == ((second.agent("b").identity, 3),)
    assert reload(gone, tmp_path) == gone
    assert wire.Cluster.parse(dump_cluster(gone)).run.hex() == gone.fingerprint
    for outdated in (request("b"), moved("b", 2)):
        with pytest.raises(ConfigurationError, match="of agent 'b' is not later"):
            amended(gone, ORGANISER, joining=[outdated])
    old = {"agents": (*gone.agents, request("b").agent), "graph": make("acdb").graph}
    with pytest.raises(SignatureError, match="revision 4 has an earlier request of agent 'b'"):
        check_succession(gone, altered(gone, old, number=4, departed=()))
    for departed in ((), ((second.agent("b").identity, 2),)):
        with pytest.raises(SignatureError, match="revision 4 has forgotten the latest request of"):
            check_succession(gone, altered(gone, {}, number=4, departed=departed))
    later = amended(gone, ORGANISER, leaving=["c"])
    for known in (make(), second, gone):
        check_succession(known, later)


def test_an_agent_that_left_comes_back_by_its_latest_request_or_a_later_one() -> None:
    gone = amended(amended(make(), ORGANISER, joining=[moved("b", 3)]), ORGANISER, leaving=["b"])
    for serial in (3, 4):
        back = amended(gone, ORGANISER, joining=[moved("b", serial)])
        assert back.revision is not None
        assert back.revision.departed == ()
        check_succession(gone, back)


def test_nobody_is_in_and_has_departed() -> None:
    gone = amended(make(), ORGANISER, leaving=["b"])
    with pytest.raises(ValueError, match="agent 'a' is in, and among the departed"):
        altered(gone, {}, departed=((gone.agent("a").identity, 1),))
    with pytest.raises(ValueError, match="departed: an identity stands twice"):
        altered(gone, {}, departed=((request("b").agent.identity, 1),) * 2)


def altered(cluster: Cluster, changes: dict[str, Any], **revision: Any) -> Cluster:
    """What an organiser may sign by means of its own."""
    assert cluster.revision is not None
    numbered = cluster.revision.model_dump() | {"previous": cluster.fingerprint} | revision
    fields = {name: getattr(cluster, name) for name in Cluster.model_fields} | changes
    fields |= {"revision": Revision.model_validate(numbered), "signature": None}
    return signed(Cluster.model_validate(fields), ORGANISER)


def test_another_run_or_organiser_does_not_follow() -> None:
    mine, theirs = make(), make(organiser=OTHER)
    with pytest.raises(SignatureError, match="organiser"):
        check_succession(mine, amended(theirs, OTHER, leaving=["a"]))
    agents = [entry.model_dump(exclude={"join", "serial"}) for entry in mine.agents]
    fields = mine.model_dump() | {"agents": agents, "revision": None, "signature": None}
    with pytest.raises(SignatureError, match="the file is not signed"):
        check_succession(mine, Cluster.model_validate(fields))


def test_members_keep_their_weights_and_take_new_declarations(tmp_path: Path) -> None:
    first = make("abc", weights=[100.0, 200.0, 300.0])
    assert reload(first, tmp_path) == first
    later = amended(
        first, ORGANISER, joining=[request("d", weight=50.0), request("a", serial=2, weight=1.0)]
    )
    assert [(one.id, one.weight) for one in later.agents] == [
        ("a", 1.0),
        ("b", 200.0),
        ("c", 300.0),
        ("d", 50.0),
    ]
    fewer = amended(later, ORGANISER, leaving=["b"])
    assert fewer.sizes == (1.0, 300.0, 50.0)
    check_succession(first, fewer)
    with pytest.raises(ConfigurationError, match="'d' declares no weight, and 'a' does"):
        amended(first, ORGANISER, joining=[request("d")])
    with pytest.raises(ConfigurationError, match="'a' declares no weight, and 'd' does"):
        amended(make("abc"), ORGANISER, joining=[request("d", weight=50.0)])


def test_an_organiser_cannot_change_what_an_agent_declared(tmp_path: Path) -> None:
    cluster = make("abc", weights=[100.0, 200.0, 300.0])
    forged = cluster.model_copy(
        update={
            "agents": (
                cluster.agents[0].model_copy(update={"weight": 1.0}),
                *cluster.agents[1:],
            )
        }
    )
    with pytest.raises(SignatureError, match="agent 'a': its keys did not sign this entry"):
        signed(forged, ORGANISER)
    with pytest.raises(SignatureError, match="agent 'c': its keys did not sign this entry"):
        reload(cluster, tmp_path, lambda text: text.replace("weight = 300.0", "weight = 3.0"))
