"""How cores meet and part: cluster files, revisions, absence and farewells, in simulated time."""

import pytest

from candor.agent.core.effects import Send
from candor.network.messages import Bye, to_envelope
from candor.topologies.cluster.file import Revision
from tests.runs import LocalRun, row_of, write_cluster


def side_by_side(run, stranger, seconds):
    """Let a0 of one run and a1 of another greet each other."""
    stranger.network = run.network
    run.start("a0")
    stranger.start("a1")
    for _ in range(round(seconds / 0.05)):
        for one in (run, stranger):
            one.now_s += 0.05
            for receiver, delivery in run.network.deliver(one.now_s):
                side = run if receiver == "a0" else stranger
                effects = side.nodes[receiver].core.received(
                    delivery.sender, delivery.frames, side.now_s, 0.0
                )
                side._perform(receiver, effects)
            for agent, node in one.nodes.items():
                one._perform(agent, node.core.tick(one.now_s))


def test_different_cluster_files_are_refused_on_both_sides(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2)
    other = cluster.model_copy(update={"seed": 99})
    run, stranger = LocalRun(tmp_path, cluster), LocalRun(tmp_path, other)
    side_by_side(run, stranger, 6.0)  # each stays for a while, so that the other side learns of it
    for node in (run.nodes["a0"], stranger.nodes["a1"]):
        assert node.ended.exit_code == 2
        assert cluster.fingerprint[:16] in node.ended.failure
        assert other.fingerprint[:16] in node.ended.failure
        assert len(node.events("peer_refused")) == 1
    run.close()
    stranger.close()


def two_revisions(cluster):
    """As the core sees them: their signatures are not its business."""
    organiser, previous = "ab" * 32, "cd" * 32
    revisions = [
        Revision(number=1, organiser=organiser),
        Revision(number=2, organiser=organiser, previous=previous),
    ]
    return [cluster.model_copy(update={"revision": revision}) for revision in revisions]


def test_neighbours_of_an_earlier_revision_are_waited_for(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2, start_deadline_s=30.0)
    first, second = two_revisions(cluster)
    run, stranger = LocalRun(tmp_path, second), LocalRun(tmp_path, first)
    side_by_side(run, stranger, 15.0)
    assert stranger.nodes["a1"].ended.exit_code == 2
    assert "a1 needs revision 2" in stranger.nodes["a1"].ended.failure
    assert run.nodes["a0"].ended is None
    assert "a1 needs revision 2 and is waited for" in run.nodes["a0"].core.neighbours["a1"].reason
    stranger.close()
    (tmp_path / "agents" / "a1" / "ledger.sqlite").unlink()  # it moves with its directory
    run.start("a1")
    run.run(60.0)
    assert [node.ended.exit_code for node in run.nodes.values()] == [0, 0]
    run.close()


def test_neighbours_that_keep_an_earlier_revision_are_named_in_the_end(tmp_path):
    cluster = write_cluster(tmp_path, "complete", 2, start_deadline_s=10.0)
    first, second = two_revisions(cluster)
    run, stranger = LocalRun(tmp_path, second), LocalRun(tmp_path, first)
    side_by_side(run, stranger, 11.0)
    told = run.nodes["a0"].ended.failure
    assert "no neighbour could be reached in 10 s: a1" in told
    assert "a1 needs revision 2" in told
    run.close()
    stranger.close()


def test_no_neighbour_in_reach_ends_with_one_line_that_names_them(started):
    run = started("ring", 3, start_deadline_s=1.0)
    run.start("a0")
    run.run(5.0)
    ended = run.nodes["a0"].ended
    assert ended.exit_code == 1
    assert "a1 (tcp://127.0.0.1:29001)" in ended.failure
    silent = "connected, but nothing comes back: can it reach us?"  # as no link says otherwise
    assert f"a2 (tcp://127.0.0.1:29002): {silent}" in ended.failure


def test_a_run_starts_without_the_neighbour_that_is_missing(started):
    run = started("ring", 4, start_deadline_s=1.0)
    run.start("a0", "a1", "a2")
    run.run()
    assert all(run.nodes[a].ended.failure is None for a in ("a0", "a1", "a2"))
    assert [e["peer"] for e in run.nodes["a0"].events("starts_without")] == ["a3"]


@pytest.mark.parametrize(("first", "second"), [("a0", "a1"), ("a1", "a0")])
def test_stopping_tells_the_neighbours(started, first, second):
    run = started("complete", 2, rounds=200)
    run.start()
    run.advance(0.5)
    run._perform(first, run.nodes[first].core.stop())
    run.run()
    assert run.nodes[first].ended.failure == "stopped before the last round"
    assert run.nodes[second].ended.failure is None
    # Nobody waited for a round's deadline: the farewell said that none will come.
    assert not run.nodes[second].events("neighbour_missed")


def test_updates_after_a_farewell_are_not_mixed(started):
    run = started("ring", 4, rounds=40, window=4)
    run.start()
    run.advance(0.5)
    nonce = run.nodes["a1"].core.neighbours["a0"].session.peer_nonce
    bye = to_envelope(Bye(False), nonce)
    run._perform("a1", [Send("a0", bye)])
    run.advance(0.5)
    before = run.nodes["a0"].core.neighbours["a1"].last_round
    run.advance(0.5)
    assert run.nodes["a0"].core.neighbours["a1"].last_round == before
    assert "a1" not in row_of(run.nodes["a0"])


@pytest.mark.parametrize("topology", ["complete", "ring"])  # one of three, and half of two
def test_one_liar_cannot_keep_the_others_from_starting(started, topology):
    run = started(topology, 4, rounds=3)
    run.start()
    run.nodes["a1"].core.step = 1000  # what its greetings say
    run.run()
    for agent in ("a0", "a2", "a3"):
        assert run.nodes[agent].ended.failure is None
        assert not run.nodes[agent].events("rejoining")
