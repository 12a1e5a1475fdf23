"""Attacks against their formulas, written out by coordinate and in plain Python."""

import math
import statistics

import numpy as np
import pytest
import torch

from candor.mechanisms.aggregation.specs import parse_aggregator
from candor.mechanisms.evidence.phases import Part, Phase, Phases
from candor.mechanisms.strategies.attacks import ATTACKS, backed_deviation
from candor.mechanisms.strategies.lies import StrategyContext
from candor.mechanisms.strategies.null_space import KINDS
from candor.mechanisms.strategies.sending import KnownRun, SendContext
from candor.mechanisms.strategies.specs import attacks, marked, parse_strategy
from candor.topologies.specs.specs import ConfigurationError

DIM = 12
HONEST = torch.from_numpy(np.random.default_rng(5).standard_normal((5, DIM), dtype=np.float32)) + 1
OWN = torch.from_numpy(np.random.default_rng(6).standard_normal((2, DIM), dtype=np.float32)) + 1
# Places 0 to 4 are honest, 5 and 6 attack; 6 has one neighbour less.
GRAPH = ((1, 2, 5), (0, 2, 3, 5, 6), (0, 1, 4, 5, 6), (1, 4, 5), (2, 3, 6), (0, 1, 2, 3), (1, 2, 4))
RUN = KnownRun(b"\7" * 32, 4, 4, 2, None, graph=GRAPH)
SEEN = SendContext(3, 0, 9, (5, 6), (GRAPH[5], GRAPH[6]), HONEST, None, 2, (0, 1, 2, 3, 4), run=RUN)
HEARD = (HONEST[:4] * 2, HONEST[1:4] - 1)
LAST = (OWN[0] / 2, OWN[1] / 2)
UNSEEN = SendContext(3, 0, 9, (5, 6), (GRAPH[5], GRAPH[6]), None, HEARD, 2, (), HEARD, LAST, RUN)
TWO_PHASES = Phases(
    (Phase("gradient", (), direct=True, charged=True), Phase("model", (Part(1, before=True),)))
)


def sent(text: str, context: SendContext = SEEN) -> list[list[float]]:
    return parse_strategy(text).sent(OWN, context).tolist()


def columns(vectors) -> list[tuple[float, ...]]:
    return list(zip(*vectors.tolist(), strict=True))


def mean(vectors) -> list[float]:
    return [statistics.fmean(column) for column in columns(vectors)]


def deviated(vectors, z: float) -> list[float]:
    return [statistics.fmean(c) - z * statistics.stdev(c) for c in columns(vectors)]


@pytest.mark.parametrize(
    ("text", "seen", "unseen"),
    [
        ("flip-vector", lambda v, own, last: [-x for x in own], ...),
        ("infinity", lambda v, own, last: [1e30] * DIM, ...),
        ("ipm:0.5", lambda v, own, last: [-0.5 * x for x in mean(v)], ...),
        ("alie:1.5", lambda v, own, last: deviated(v, 1.5), ...),
        ("mimic:2", lambda v, own, last: v[2].tolist(), ...),
        (
            "avg-zero",
            lambda v, own, last: [-sum(c) / 2 for c in columns(v)],
            lambda v, own, last: [
                -(sum(c) - x) / 2 for c, x in zip(columns(v), last.tolist(), strict=True)
            ],
        ),
    ],
)
def test_an_attack_is_its_formula(text, seen, unseen) -> None:
    for row, made in enumerate(sent(text)):
        assert made == pytest.approx(seen(HONEST, OWN[row].tolist(), None), rel=1e-5, abs=1e-5)
    unseen = seen if unseen is ... else unseen
    for row, made in enumerate(sent(text, UNSEEN)):
        expected = unseen(HEARD[row], OWN[row].tolist(), LAST[row])
        assert made == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_seen_neighbours_makes_a_simulated_attacker_go_by_what_it_heard() -> None:
    blind = SendContext(3, 0, 9, (5, 6), SEEN.neighbours, HONEST, HEARD, 2, own=LAST, run=RUN)
    for text, limited in (
        ("ipm:0.7", "ipm:factor=0.7,seen=neighbours"),
        ("alie", "alie:seen=neighbours"),
        ("mimic:1", "mimic:whom=1,seen=neighbours"),
        ("avg-zero", "avg-zero:seen=neighbours"),
    ):
        assert sent(limited, blind) == sent(text, UNSEEN) != sent(text)
        strategy = parse_strategy(f"{limited} @ 2-")
        assert marked(strategy, "overhears")
        assert not marked(strategy, "omniscient")


def test_who_knows_nothing_yet_sends_its_own_vector_or_for_avg_zero_nothing() -> None:
    start = SendContext(1, 0, 9, (5, 6), SEEN.neighbours, None, [None, None], 2, run=RUN)
    for text in ("ipm", "alie", "mimic", "ipm:auto"):
        assert sent(text, start) == OWN.tolist()
    assert sent("avg-zero", start) == [[0.0] * DIM] * 2


def test_a_little_is_enough_is_backed_by_a_majority() -> None:
    assert backed_deviation(50, 12) == pytest.approx(0.3360381404)  # Phi^-1(24 / 38)
    assert sent("alie")[0] == pytest.approx(deviated(HONEST, backed_deviation(5, 2)), abs=1e-6)
    for n in range(2, 40):
        for f in range(n // 2):
            z, supporters = backed_deviation(n, f), n // 2 + 1 - f
            if z != 0.0:
                # So many honest vectors lie beyond it, were they normal: with the attackers a
                # majority of all.
                beyond = (n - f) * (1 - statistics.NormalDist().cdf(z))
                assert beyond == pytest.approx(supporters)


def test_the_optimised_factor_does_most_damage_of_a_fine_grid() -> None:
    for rule, direction in (("median", "ipm"), ("rfa", "alie"), ("median", "alie")):
        aggregator = parse_aggregator(rule, 2)
        run = KnownRun(RUN.fingerprint, 4, 4, 2, aggregator, graph=GRAPH)
        context = SendContext(3, 0, 9, (5,), (GRAPH[5],), HONEST, None, 2, (0, 1, 2, 3, 4), run=run)
        # The victim is the first honest agent with two attackers around it: a1, with three others.
        around, own = HONEST[[0, 2, 3]], HONEST[1]
        target = torch.tensor(mean(torch.cat([around, own[None]])))

        def damage(vector, around=around, own=own, run=run, target=target) -> float:
            all_heard = torch.cat([around, vector.expand(2, -1)])
            return float((run.combine(all_heard, own) - target).norm())

        def made(factor, direction=direction, context=context) -> torch.Tensor:
            text = f"{direction}:{factor}"
            return parse_strategy(text).sent(OWN[:1], context)[0]

        best = max(damage(made(2.0**power)) for power in np.arange(-4, 6.01, 0.25))
        found = parse_strategy(f"{direction}:auto").sent(OWN[:1], context)[0]
        assert damage(found) >= 0.98 * best > damage(HONEST.mean(dim=0))


def test_colluders_send_one_vector_off_their_mean_along_what_they_differ_by() -> None:
    first, second = sent("colluding-difference:3")
    assert first == second
    # Of two vectors d the difference is the direction, and sigma = |d| / sqrt 2.
    middle, half = OWN.mean(dim=0), (OWN[0] - OWN[1]) / math.sqrt(2)
    half = half if half @ middle >= 0 else -half
    assert first == pytest.approx((middle - 3 * half).tolist(), abs=1e-4)


def test_large_noise_differs_by_receiver_round_and_phase_and_by_nothing_else() -> None:
    rows = torch.tensor(sent("large-noise"))
    assert rows.shape == (2, 4, DIM)
    assert (rows[1, 3] == 0).all()  # a row with fewer neighbours: nobody gets this
    told = rows.reshape(8, DIM)[:7]
    assert 800 < told.abs().max() <= 1000
    assert abs(float(told.mean())) < 250
    assert len({tuple(one.tolist()) for one in told}) == 7
    alone = SendContext(3, 0, 9, (6,), (GRAPH[6],), run=RUN)
    mine = parse_strategy("large-noise").sent(OWN[1:], alone)
    assert torch.equal(mine[0], rows[1, :3])  # as on a host of its own
    later = SendContext(4, 0, 9, (6,), (GRAPH[6],), run=RUN)
    assert not torch.equal(parse_strategy("large-noise").sent(OWN[1:], later), mine)


def test_dissensus_cancels_what_a_receiver_gains_from_honest_neighbours() -> None:
    rows = torch.tensor(sent("dissensus:1"))
    for receiver in range(5):
        got = [
            rows[row, GRAPH[agent].index(receiver)]
            for row, agent in enumerate((5, 6))
            if receiver in GRAPH[agent]
        ]
        near = [HONEST[k] for k in GRAPH[receiver] if k < 5]
        mixed = torch.stack([HONEST[receiver], *near, *got]).mean(dim=0)
        assert torch.allclose(mixed, HONEST[receiver], atol=1e-5)


def test_in_diameter_stays_within_the_honest_diameter_and_touches_it() -> None:
    rows = torch.tensor(sent("in-diameter"), dtype=torch.float64)
    honest = HONEST.double()
    diameter = max(float((u - v).norm()) for u in honest for v in honest)
    for row, agent in enumerate((5, 6)):
        for at in range(len(GRAPH[agent])):
            farthest = max(float((rows[row, at] - h).norm()) for h in honest)
            assert farthest == pytest.approx(diameter, rel=1e-5)
    assert not torch.equal(rows[0, 0], rows[0, 1])
    assert torch.equal(rows[0, 0], rows[0, 2])
    same = SendContext(3, 0, 9, (5, 6), SEEN.neighbours, HONEST[:1].repeat(3, 1), run=RUN)
    assert torch.equal(torch.tensor(sent("in-diameter", same))[0, 0], HONEST[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "size"), [(65, 64), (100, 64), (4000, 64)])
def test_a_hidden_poison_has_its_length_and_no_sketch(dim, size, kind) -> None:
    run = KnownRun(RUN.fingerprint, 4, size)
    made = {}
    for t in (1, 4, 5):
        context = SendContext(t, 0, 9, (0, 1), ((1,), (0,)), run=run)
        attack = parse_strategy(f"hidden:size=10,kind={kind}")
        poison = made[t] = attack.sent(torch.zeros(2, dim), context)
        assert float(poison[0].norm()) == pytest.approx(10, rel=1e-5)
        assert torch.equal(poison[0], poison[1])
        assert np.abs(run.sketch(t, dim)(poison.numpy())).max() < 1e-5
    assert torch.equal(made[1], made[4])
    assert np.abs(run.sketch(5, dim)(made[1].numpy())).max() > 1e-3 or dim < 101
    with pytest.raises(ConfigurationError, match="is its own sketch"):
        attack.sent(torch.zeros(1, size), context)


def test_attacks_on_gradients_leave_models_alone_and_those_on_agreement_gradients() -> None:
    run = KnownRun(RUN.fingerprint, 4, 4, 2, None, TWO_PHASES, GRAPH)
    contexts = [
        SendContext(3, p, 9, (5, 6), SEEN.neighbours, HONEST, None, 2, SEEN.honest_agents, run=run)
        for p in (0, 1)
    ]
    in_both, in_last = {"large-noise", "in-diameter"}, {"dissensus", "hidden"}
    in_first = set(ATTACKS) - in_both - in_last
    for name in ATTACKS:
        text = "hidden:1" if name == "hidden" else name
        acts = [sent(text, context) != OWN.tolist() for context in contexts]
        assert acts == [name in in_both | in_first, name in in_both | in_last], name
    assert [context.phase_name for context in contexts] == ["gradient", "model"]


def test_a_sum_attacks_in_its_rounds_and_a_later_part_takes_every_receivers_vector() -> None:
    assert sent("ipm:1 @ 4-") == OWN.tolist()
    assert sent("flip-vector + flip-vector @ 3") == OWN.tolist()
    noise, flipped = (
        torch.tensor(sent("large-noise")),
        torch.tensor(sent("large-noise + flip-vector")),
    )
    assert torch.equal(flipped, -noise)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ipm:-1", "write ipm, ipm:0.5, ipm:auto or"),
        ("ipm:seen=all", "write ipm"),
        ("alie:much", "write alie, alie:1.5"),
        ("mimic:1.5", "write mimic"),
        ("avg-zero:3", "write avg-zero"),
        ("in-diameter:whom=1", "write in-diameter"),
        ("hidden", "write hidden:10"),
        ("hidden:size=1,kind=odd", "write hidden:10"),
        ("infinity:3", "takes no value"),
        ("large-noise:inf", "write large-noise"),
    ],
)
def test_a_bad_value_is_one_line(text, words) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_strategy(text)


class Louder:
    """A user's attack that has `sent` alone, and looks at what neighbours sent."""

    overhears = True

    def sent(self, vectors, context):
        return vectors * (1 if context.heard is None else len(context.heard[0]))


class Wrong:
    """A user's attack with an answer that does not fit."""

    answer: object = None

    def sent(self, vectors, context):
        return self.answer


def test_users_attacks_are_called_and_their_answers_checked() -> None:
    mine = parse_strategy(f"{__name__}:Louder")
    assert attacks(mine)
    assert marked(mine, "overhears")
    assert not attacks(parse_strategy("scale:3"))
    assert torch.equal(mine.sent(OWN, UNSEEN), OWN * 4)
    assert torch.equal(mine.report(OWN, StrategyContext(1, 0, (0, 1))), OWN)
    wrong = parse_strategy(f"{__name__}:Wrong")
    for answer, words in (
        ([1.0], "a list, not a tensor"),
        (OWN[:1], r"the shape \(1, 12\), not \(2, 12\)"),
        (torch.zeros(2, 3, DIM), r"not \(2, 4, 12\)"),
        (OWN / 0, "not finite"),
    ):
        Wrong.answer = answer
        with pytest.raises(ConfigurationError, match=words):
            wrong.sent(OWN, SEEN)
    Wrong.answer = torch.ones(2, 4, DIM)
    assert wrong.sent(OWN, SEEN) is not None


@pytest.mark.parametrize("text", ["dissensus", "dissensus @ 5-"])
def test_a_daemon_refuses_what_it_cannot_know(text) -> None:
    with pytest.raises(ConfigurationError, match="only simulated agents do"):
        parse_strategy(text, simulated=False)
