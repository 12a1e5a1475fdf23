"""Revisions that go on with their run: who is in when, and what such a file may not change."""

from pathlib import Path
from typing import Any

import pytest

from candor.topologies.cluster.file import Cluster, RoundSettings, dump_cluster, load_cluster
from candor.topologies.cluster.requests import make_request
from candor.topologies.cluster.revisions import amended, check_continuation, continues
from candor.topologies.encoding import z85
from candor.topologies.encoding.signatures import SigningKey
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from tests.independent import wire
from tests.topologies.cluster.test_revisions import ORGANISER, OTHER, make, request

FIRST = make("abcd")


def going_on(
    before: Cluster = FIRST, joining: str = "e", leaving: str = "b", after: int = 3, **changes: Any
) -> Cluster:
    asked = [request(agent) for agent in joining]
    return amended(
        before, ORGANISER, joining=asked, leaving=list(leaving), after_round=after, **changes
    )


def test_who_joins_takes_the_place_of_who_leaves_after_a_window(tmp_path: Path) -> None:
    second = going_on()
    assert second.ids == ("a", "e", "c", "d")
    assert second.after == 16  # the end of the window with round 3
    assert (second.run, second.fingerprint) != (FIRST.run, FIRST.run)
    path = tmp_path / "second.toml"
    path.write_text(dump_cluster(second))
    assert load_cluster(path) == second
    assert load_cluster(path).fingerprint == second.fingerprint
    theirs = wire.Cluster.parse(path.read_text())
    assert (theirs.run.hex(), theirs.fingerprint.hex()) == (second.run, second.fingerprint)


def test_rounds_and_neighbours_are_those_of_their_membership() -> None:
    found = going_on().memberships
    assert found.of(16) == round_of(FIRST, 16, "e")
    assert set(found.of(17).taken["a"]) == {"d", "e"}
    assert found.of(17).taken["b"] == {}
    assert found.of(16).taken["e"] == {}
    assert found.neighbours(16)["a"] == {"b", "d"}
    assert found.neighbours(17)["b"] == frozenset()
    assert found.ever("a") == ("b", "d", "e")
    assert ("a", "b") in found.edges
    assert ("a", "e") in found.edges
    assert (found.since("a", "d"), found.since("a", "e")) == (1, 17)


def round_of(cluster: Cluster, t: int, stranger: str) -> object:
    weights = cluster.round_weights.of(t)
    return type(weights)(
        {**weights.taken, stranger: {}},
        {**weights.takers, stranger: frozenset()},
        {**weights.mass, stranger: 1.0},
    )


def test_a_third_revision_tells_the_whole_past() -> None:
    first = make("abcd")
    longer = amended(first, ORGANISER, changes={"rounds": RoundSettings(rounds=99)})
    assert longer.continued is None
    assert longer.run == longer.fingerprint
    second = going_on(longer)
    third = going_on(second, joining="b", leaving="c", after=20)
    assert (third.run, third.after) == (longer.fingerprint, 32)
    assert third.memberships.neighbours(17)["e"] == {"a", "c"}
    assert continues(second, third)
    assert continues(longer, third)
    assert not continues(third, second)
    assert not continues(first, third)


def test_an_id_never_becomes_another_agents() -> None:
    second = going_on(amended(FIRST, ORGANISER, changes={"rounds": RoundSettings(rounds=99)}))
    key, organiser = SigningKey(b"x" * 32), ORGANISER.public.hex()
    like = {"endpoints": ["tcp://x.example:1"], "curve": z85.encode(b"x" * 32), "serial": 9}
    other = make_request(key, organiser=organiser, agent="b", **like)
    with pytest.raises(ConfigurationError, match="'b' was another one earlier"):
        amended(second, ORGANISER, joining=[other], after_round=20)


def test_what_a_run_goes_on_with_stays() -> None:
    with pytest.raises(ConfigurationError, match="the run is over with round 20"):
        going_on(after=20, changes={"rounds": RoundSettings(rounds=99)})
    with pytest.raises(ConfigurationError, match="none after 32"):
        going_on(after=20)
    task = FIRST.task.model_copy(update={"batch_size": 7})
    with pytest.raises(ConfigurationError, match=r"\[task\] stays"):
        going_on(changes={"task": task})
    slower = RoundSettings(rounds=20, deadline_s=99.0)
    with pytest.raises(ConfigurationError, match="only their number"):
        going_on(changes={"rounds": slower})


def test_a_run_of_its_own_and_a_fork_are_told() -> None:
    with pytest.raises(ConfigurationError, match="a run of its own"):
        check_continuation(FIRST, amended(FIRST, ORGANISER, leaving=["b"]))
    other = make("abce")
    with pytest.raises(SignatureError, match="does not follow"):
        check_continuation(FIRST, going_on(other, joining="d"))
    with pytest.raises(SignatureError, match="organiser"):
        check_continuation(make("abcd", organiser=OTHER), going_on())
