"""Cores that keep to a bound of what they inject in a window, and one whose client does not."""

import numpy as np
import pytest

from candor.agent.simulation.vectorised import Simulation
from candor.network.messages import Update, from_envelope
from tests.runs import DIM, finish
from tests.test_one_text import run_cores

ACCUSATIONS = ("claim_refused", "bill_refused", "update_refused", "misbehaviour_proven")


def exaggerated(t: int, agent: int) -> np.ndarray:
    """Reports of which those of a1 are fifty times as long from round 7 on."""
    found = np.random.default_rng([agent, t]).standard_normal(DIM).astype(np.float32)
    return found * np.float32(50.0 if agent == 1 and t >= 7 else 1.0)


def reports() -> dict:
    return {f"a{i}": lambda t, i=i: exaggerated(t, i) for i in range(4)}


def accused(run) -> list:
    return [node.events(event) for node in run.nodes.values() for event in ACCUSATIONS]


@pytest.mark.parametrize("topology", ["ring", "star", "one-peer-exponential", "random-matching"])
def test_who_exaggerates_sends_less_and_nobody_is_accused(started, topology) -> None:
    run = finish(started(topology, 4, rounds=12, window=4, influence=1.5, reports=reports()))
    assert min(run.nodes["a1"].kept) < 0.2
    assert not any(accused(run))
    assert all(node.ended.failure is None for node in run.nodes.values())


def test_a_client_that_does_not_shorten_is_refused_and_proven_guilty(started) -> None:
    run = started("ring", 4, rounds=12, window=4, influence=1.5, reports=reports())
    run.start()
    run.nodes["a1"].driver.within = lambda out, kept, *, opens: out
    run.run(200.0)
    for peer in ("a0", "a2"):
        proven = run.nodes[peer].events("misbehaviour_proven")
        assert {(event["peer"], event["kind"]) for event in proven} == {("a1", "influence")}


def test_who_comes_back_rests_for_a_window_and_is_accused_of_nothing(started) -> None:
    run = started("ring", 4, rounds=24, window=4, influence=1.5)
    said = {}

    def seen(agent, send):
        message = from_envelope(send.envelope)
        if agent == "a2" and isinstance(message, Update):
            held = run.nodes[agent].core.book.last(agent).statement
            said[held.round] = held.influence
        return send

    run.tamper = seen
    run.start()
    run.advance_until(lambda: run.nodes["a2"].core.round >= 6)
    run.kill("a2")
    run.advance_until(lambda: run.nodes["a1"].core.round >= 11)
    run.start("a2")
    run.run(400.0)
    (back,) = run.nodes["a2"].events("re_entered")
    first, last = back["round"], -(-back["round"] // 4) * 4
    assert all(said[t].spent for t in range(first, last + 1))
    assert not any(said[t].spent for t in range(last + 1, 25))
    assert all(node.ended.failure is None for node in run.nodes.values())
    assert not any(accused(run))


LENGTHS = (0.0, 1e-41, 1e-30, 1e-7, 1.0, 1e4)
GRAPHS = ("ring", "star", "complete", "one-peer-exponential")


def unequal(seed: int, agent: int, t: int) -> np.ndarray:
    """Reports of lengths that have nothing to do with each other, which their agents change now and
    then."""
    chosen = int(np.random.default_rng([seed, agent, t // 3]).integers(len(LENGTHS)))
    found = np.random.default_rng([seed, agent, t]).standard_normal(DIM)
    return (found * LENGTHS[chosen]).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_however_much_honest_updates_differ_nobody_is_accused(started, seed) -> None:
    drawn = np.random.default_rng(seed)
    agents = int(drawn.integers(3, 7))
    reports = {f"a{i}": lambda t, i=i: unequal(seed, i, t) for i in range(agents)}
    options = {
        "window": int(drawn.integers(2, 7)),
        "influence": float(drawn.choice([1.0, 2.0, 10.0])),
        "codec": str(drawn.choice(["float32", "float16"])),
        "rule": "norm:1e-12",  # nobody is to owe more than its credit
    }
    run = started(str(drawn.choice(GRAPHS)), agents, rounds=16, reports=reports, **options)
    run.start()
    if seed % 2:
        run.advance_until(lambda: run.nodes["a0"].core.round >= 5)
        run.kill("a1")
        run.advance_until(lambda: run.nodes["a0"].core.round >= 8)
        run.start("a1")
    run.run(400.0)
    assert not any(accused(run))
    assert all(node.ended.failure is None for node in run.nodes.values())


def test_nothing_changes_to_the_bit_where_nobody_exceeds_the_bound(tmp_path) -> None:
    models = []
    for influence in (None, 1e6):
        done = run_cores(tmp_path, "ring", "diloco", rounds=9, influence=influence)
        models.append([node.x for node in done.run.nodes.values()])
        done.run.close()
        simulation = Simulation(done.cluster, {"a1": "scale:3"}, measured=True)
        for _ in range(9):
            simulation.step()
        models[-1] += list(simulation.parameters.numpy())
        (tmp_path / "cluster.toml").unlink(missing_ok=True)
        for path in tmp_path.glob("agents/*/ledger.sqlite*"):
            path.unlink()
    without, bounded = models
    assert all((a == b).all() for a, b in zip(without, bounded, strict=True))


@pytest.mark.parametrize("split", [3, 4, 6])  # within a window, where one ends, after one
def test_a_simulation_carries_sums_and_bounds_on(tmp_path, split) -> None:
    done = run_cores(tmp_path, "ring", "decentralized-sgd", rounds=2, influence=1.5)
    done.run.close()
    lies = {"a1": "scale:30"}
    whole = Simulation(done.cluster, lies, measured=True)
    for _ in range(8):
        whole.step()
    first = Simulation(done.cluster, lies, measured=True)
    for _ in range(split):
        first.step()
    again = Simulation(done.cluster, lies, measured=True, state=first.state())
    for _ in range(8 - split):
        again.step()
    assert (again.parameters == whole.parameters).all()
