"""Rounds done again: honest ones come out as they were stated, false ones do not."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from candor.agent.core.settlement.referee import claim_key
from candor.agent.daemon.kept_rounds import LEAVES_NAME, pick_of
from candor.agent.daemon.status import Status, StatusFile
from candor.agent.learning import learner
from candor.agent.learning.rows import VELOCITY, TrainedRows
from candor.agent.runs.replay import Host, Replayer
from candor.agent.runs.replay_dir import UNCLAIMED, _windows, replay_dir
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.kept import Echo, KeptRound, salt_of
from candor.mechanisms.evidence.sample_tree import Samples
from candor.mechanisms.evidence.sketch import SignSketch, signs_seed, window_of
from candor.mechanisms.evidence.statements import SignedStatement
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.specs.specs import ConfigurationError
from tests.cases import cases
from tests.kept_runs import kept, kept_run, replayer


class Unsigned:
    """A store before anyone has signed anything."""

    def __init__(self, store):
        self.value = store.value

    def records(self, _channel_id):
        return []


def told(run, agent, t, **settings):
    return replayer(run, agent, **settings).replayed(kept(run, agent, t))


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9},
        {"algorithm": "diloco", "codec": "float16"},
        {"algorithm": "gradient-tracking", "momentum": 0.5},
        {"algorithm": "median-sgd"},
        {"aggregator": "trimmed-mean", "max_byzantine": 1, "agents": 4, "topology": "complete"},
        {
            "aggregator": "krum",
            "max_byzantine": 1,
            "agents": 4,
            "topology": "complete",
            "sketch_size": 512,
        },
    ],
    ids=lambda settings: settings.get("algorithm") or settings.get("aggregator") or "dsgd",
)
def test_honest_rounds_come_out_to_the_bit(tmp_path, settings):
    run = kept_run(tmp_path, rounds=3, **settings)
    replays = replayer(run, "a0")
    for t in (1, 2, 3):
        found = replays.replayed(kept(run, "a0", t))
        assert (found.told, found.why) == (Told.TRUE, "to the bit")
    run.close()


@pytest.mark.parametrize("task", ["tests.own_loops:Adam", "tests.kept_runs:Normed"])
def test_rounds_of_loops_and_of_models_with_a_state_come_out_too(tmp_path, task):
    run = kept_run(tmp_path, task, rounds=3, momentum=0.5)
    found = [told(run, "a0", t) for t in (1, 2, 3)]
    assert [(one.told, one.why) for one in found] == [(Told.TRUE, "to the bit")] * 3
    run.close()


def test_what_nobody_can_repeat_cannot_be_told(tmp_path):
    run = kept_run(tmp_path / "chance", "tests.kept_runs:Chance", rounds=2)
    found = told(run, "a0", 2)
    assert (found.told, found.why) == (Told.UNKNOWN, "done twice it comes out in two ways")
    run.close()
    run = kept_run(tmp_path / "unsaved", "tests.own_loops:Kept", rounds=3)
    found = told(run, "a0", 3)
    assert (found.told, found.why) == (Told.UNKNOWN, "its loop keeps something that has no state")
    run.close()


def test_rounds_after_a_return_start_from_a_neighbours_model_and_are_true(tmp_path):
    run = kept_run(tmp_path, start=False, rounds=9, window=3, momentum=0.5, agents=3)
    run.start()
    run.advance_until(lambda: run.nodes["a1"].core.round == 5, 200.0)
    run.kill("a1")
    run.start("a1")
    run.run(600.0)
    held = run.kept["a1"].rounds
    fresh = [t for t in held if kept(run, "a1", t).start.fresh]
    assert fresh[0] == 1
    assert fresh[1] > 5
    found = {t: told(run, "a1", t) for t in held}
    cut = [t for t, one in found.items() if one.told is not Told.TRUE]
    assert all(found[t].told is Told.UNKNOWN and t + 1 not in held for t in cut), found
    run.close()


def test_additions_in_another_order_are_no_lie(tmp_path, monkeypatch):
    run = kept_run(tmp_path, rounds=2, momentum=0.5)
    drawn = learner.Samples.draw
    monkeypatch.setattr(learner.Samples, "draw", lambda *args: drawn(*args).flip(-1))
    found = told(run, "a0", 2, threads=2)
    assert found.told is Told.TRUE
    assert 0 < found.error < 1e-5  # where 2^-10 is allowed
    torch.set_num_threads(1)
    run.close()


def test_a_statement_made_anew_is_not_the_one_that_neighbours_have_received(tmp_path):
    run = kept_run(tmp_path, rounds=3)
    held = kept(run, "a0", 2)
    assert told(run, "a0", 2).echoed
    # The agent opens its round anew: another nonce, a statement that commits to that, as true.
    start = replace(held.start, nonce=b"m" * 32)
    (exchange,) = held.round.exchanges
    (own,) = [part for part in exchange.parts if part.agent == "a0"]
    said = replace(own.statement.statement, salt=salt_of(start.opening, 0))
    signed = SignedStatement.sign(said, run.nodes["a0"].identity.signing_key)
    parts = (replace(own, statement=signed), *(p for p in exchange.parts if p is not own))
    anew = replace(held, start=start, round=KeptRound((replace(exchange, parts=parts),)))
    found = replayer(run, "a0").replayed(anew)
    assert (found.told, found.why) == (Told.FALSE, "a1 has received another statement of it")
    alone = replayer(run, "a0").replayed(replace(anew, echoes=()))
    assert (alone.told, alone.echoed) == (Told.TRUE, False)
    # What is no neighbour's word counts for nothing.
    (echo,) = held.echoes
    for other in (replace(echo, sources=()), Echo(own.statement, ())):
        assert replayer(run, "a0").replayed(replace(held, echoes=(other,))).told is Told.UNKNOWN
    run.close()


def test_a_damaged_key_of_the_leaves_is_no_lie(tmp_path):
    run = kept_run(tmp_path, rounds=2)
    path = run.kept["a0"].folder / LEAVES_NAME
    whole = path.read_bytes()
    for at in (0, len(whole) - 1):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(ConfigurationError, match="is damaged"):
            run.kept["a0"].secret()
    path.write_bytes(whole[:32])
    with pytest.raises(ConfigurationError, match="is damaged"):
        run.kept["a0"].secret()
    run.close()


def test_learning_is_the_same_to_the_bit_with_rounds_kept(tmp_path):
    kept, plain = (
        kept_run(tmp_path / str(on), rounds=3, momentum=0.5, replay=on).nodes for on in (1, 0)
    )
    for agent, node in plain.items():
        assert len(node.models) == 3
        assert all(np.array_equal(x, kept[agent].models[t]) for t, x in node.models.items())


def test_of_a_billed_window_the_picked_round_stays_that_the_neighbours_claims_pick(tmp_path):
    run = kept_run(tmp_path, rounds=6, window=3)
    held, cluster = run.kept["a0"], bytes.fromhex(run.cluster.fingerprint)
    assert held.rounds == [1, 2, 3, 4, 5, 6]
    bills = [SignedBill.decode(run.bill("a0", window)) for window in (0, 1)]
    for bill in bills:
        held.billed(bill.encode())
    first, last = held.rounds
    assert [first, last] == [pick_of(cluster, "a0", bill) for bill in bills]
    assert first in (1, 2, 3)
    assert last in (4, 5, 6)
    starts = sorted(int(path.stem) for path in held.folder.glob("*.start"))
    assert starts == sorted({first, first + 1, last, last + 1, 6} & {1, 2, 3, 4, 5, 6})
    assert told(run, "a0", first).told is told(run, "a0", last).told is Told.TRUE
    windows = _windows(run.cluster, "a0", run.nodes["a0"].store)
    assert [(one.rounds, one.vouched) for one in windows] == [((first,), True), ((last,), True)]
    # What no neighbour has signed the agent may have made since.
    alone = _windows(run.cluster, "a0", Unsigned(run.nodes["a0"].store))
    assert [(one.rounds, one.vouched) for one in alone] == [((first,), False), ((last,), False)]
    # Without what a neighbour claimed there is no coin: all rounds of the window are looked at.
    own = tuple(claim for claim in bills[0].claims if claim.claim().agent == "a0")
    assert pick_of(cluster, "a0", replace(bills[0], claims=own)) is None
    run.close()


def test_what_was_kept_is_held_against_what_others_know(tmp_path):
    """The start by its salt, vectors and weights by statements, samples by their root, the claim by
    what neighbours were billed for; and what is not there cannot be told."""
    run = kept_run(tmp_path, rounds=3, momentum=0.5)
    whole, replays = kept(run, "a0", 2), replayer(run, "a0")
    (exchange,) = whole.round.exchanges
    own, theirs = exchange.parts
    longer = np.frombuffer(whole.start.model, "<f4") * np.float32(1.01)
    other = whole.following
    assert other is not None

    def parts(*changed):
        return KeptRound((replace(exchange, parts=changed),))

    changes = {
        "start of the round": {"start": replace(whole.start, model=longer.tobytes())},
        "start of the next": {"following": replace(other, model=longer.tobytes())},
        "vector of a1": {"round": parts(own, replace(theirs, values=own.values))},
        "other weights": {"round": parts(own, replace(theirs, weight=0.25))},
    }
    for why, change in changes.items():
        found = replays.replayed(replace(whole, **change))
        assert (found.told, why in found.why) == (Told.FALSE, True), found
    assert replays.replayed(replace(whole, following=None)).told is Told.UNKNOWN
    assert replays.replayed(replace(whole, round=KeptRound(()))).told is Told.UNKNOWN
    claim = run.nodes["a0"].core.book.claim(0)
    assert replays.replayed(whole, claim).told is Told.TRUE
    less = tuple(replace(entry, energy=entry.energy / 2) for entry in claim.rounds)
    assert replays.replayed(whole, replace(claim, rounds=less)).told is Told.FALSE
    elsewhere = Replayer(run.cluster, "a0", Samples(1, bytes(32)), Host(threads=1))
    assert "its samples are not" in elsewhere.replayed(whole).why
    run.close()


def test_what_was_damaged_moved_or_left_out_is_no_lie_and_no_all_clear(tmp_path):
    run = kept_run(tmp_path, rounds=4, window=2)
    run.close()
    place, files = tmp_path / "agents" / "a0", run.kept["a0"]
    status = Status("run", "a0", run.cluster.fingerprint, 0, "done", round=4, rounds=4)
    StatusFile(place).write(status)
    host, cluster = Host(threads=1), tmp_path / "cluster.toml"

    def looked(only=None):
        return replay_dir(place, cluster, only, host).rounds

    assert [one.told for one in looked()] == [Told.TRUE] * 2
    paths = (files.round_path(2), files.start_path(2), files.start_path(3), files.said_path(3))
    for path in paths:
        data, half = path.read_bytes(), path.stat().st_size // 2
        for damaged in (data[:-1], data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]):
            path.write_bytes(damaged)
            (found,) = looked(2)
            assert (found.round, found.told) == (2, Told.UNKNOWN), found
        path.write_bytes(data)
    for other in (files.round_path, files.start_path):
        data = other(2).read_bytes()
        other(2).write_bytes(other(3).read_bytes())
        (found,) = looked(2)
        assert (found.round, found.told, found.why[-16:]) == (2, Told.UNKNOWN, "of another round")
        other(2).write_bytes(data)
    files.round_path(2).unlink()
    files.round_path(2).mkdir()
    assert "cannot be read" in looked(2)[0].why
    with closing(sqlite3.connect(place / "ledger.sqlite")) as store:
        store.execute("DELETE FROM settings WHERE key = ?", (claim_key(1),))
        store.commit()
    last = looked()[-1]
    assert (last.round, last.told, last.why) == (3, Told.UNKNOWN, UNCLAIMED)


def unit(like, seed):
    noise = np.random.default_rng(seed).standard_normal(like.shape).astype(np.float32)
    return torch.from_numpy(noise / np.linalg.norm(noise))


def hidden(rows, like, t):
    """A vector (1, dim) that the signs of round t's window hide."""
    run, window, size = rows.run
    signs = SignSketch(signs_seed(run, window_of(t, window)), like.shape[1], size).signs
    noise = unit(like, 5)[0].numpy() * signs
    whole = len(noise) - len(noise) % size
    noise[:whole].reshape(-1, size)[:] -= noise[:whole].reshape(-1, size).mean(axis=0)
    noise[whole:] = 0
    return torch.from_numpy((noise * signs)[None])


class Liar(TrainedRows):
    """Lies in another way each round, by numbers drawn from `seed`; honest in the first and the
    last one."""

    seed = 0
    run = (bytes(32), 4, 64)
    before: torch.Tensor

    def local_steps(self, x, t, step_size, state):
        kind, draw = dict(enumerate(KINDS, start=2)).get(t, ""), self._draw(t)
        if kind == "momentum":
            state[VELOCITY] = state[VELOCITY] * (1 + draw)
        if kind == "other-model":
            x = x + draw * 0.1 * x.norm() * unit(x, t)
        made = super().local_steps(x, t + 1000 * (kind == "other-batch"), step_size, state)
        if kind == "fewer-steps":
            made = made * 0.5 + 0.5 * super().local_steps(x, t, step_size, dict(state))
        if kind == "state":
            state[VELOCITY] = state[VELOCITY] * (1 + draw)
        self.kind = kind
        return made

    def _draw(self, t):
        return float(np.random.default_rng([self.seed, t]).uniform(0.05, 2.0))

    def report(self, gradient, t, state):
        draw, before = self._draw(t), getattr(self, "before", gradient)
        self.before = gradient
        match self.kind:
            case "scale":
                return gradient * (1 + draw)
            case "noise":
                return gradient + draw * gradient.norm() * unit(gradient, t)
            case "stale":
                return before
            case "hidden":
                return gradient + draw * gradient.norm() * hidden(self, gradient, t)
            case "mean":
                return gradient + draw * before
            case "masked":
                return gradient * (gradient.abs() > gradient.abs().median())
            case "flip":
                return -gradient
        return gradient


KINDS = (
    *("scale", "noise", "stale", "hidden", "mean", "masked", "flip"),
    *("other-batch", "other-model", "momentum", "state", "fewer-steps"),
)


@pytest.mark.parametrize("seed", range(cases(1)))
def test_every_false_round_is_found(tmp_path, seed):
    """Of twelve kinds, by random numbers: twenty times as many cases are 240 false reports."""
    rounds = len(KINDS) + 2
    liar = type("Liar", (Liar,), {"seed": seed})
    run = kept_run(tmp_path, lying={"a0": liar}, rounds=rounds, momentum=0.5, step_size=0.05)
    replays = replayer(run, "a0")
    found = {t: replays.replayed(kept(run, "a0", t)) for t in range(1, rounds + 1)}
    assert found[1].told is found[rounds].told is Told.TRUE
    missed = [KINDS[t - 2] for t in range(2, rounds) if found[t].told is not Told.FALSE]
    assert missed == []
    assert found[2 + KINDS.index("state")].why == "it went on with another velocity"
    run.close()
