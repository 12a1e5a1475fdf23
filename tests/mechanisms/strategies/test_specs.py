"""How strategies are named, combined and timed, and users' own."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from candor.mechanisms.strategies.lies import AltersData, StrategyContext
from candor.mechanisms.strategies.sending import AltersVectors, SendContext
from candor.mechanisms.strategies.specs import (
    Rounds,
    UsersStrategy,
    canonical_strategy,
    idleness,
    marked,
    parse_strategy,
)
from candor.topologies.specs.specs import ConfigurationError

GRADIENT = torch.arange(8.0).reshape(2, 4)
CONTEXT = StrategyContext(round=3, seed=7, agents=(0, 5))


def reported(text: str, t: int) -> Tensor:
    context = StrategyContext(t, 7, (0, 5), None, simulated=True, own=-GRADIENT)
    return parse_strategy(text).report(GRADIENT, context)


# --- rounds -------------------------------------------------------------------------------------

ROUNDS = st.builds(
    lambda first, length, every: Rounds(
        first,
        None if length is None else first + length * every,
        1 if length == 0 else every,
    ),
    st.integers(1, 10**6),
    st.none() | st.integers(0, 10**6),
    st.integers(1, 100),
)


@given(ROUNDS)
def test_rounds_are_read_as_they_are_written(rounds: Rounds) -> None:
    assert not rounds.text if rounds == Rounds() else Rounds.parse(rounds.text) == rounds


@given(st.integers(1, 60), st.none() | st.integers(0, 60), st.integers(1, 9))
def test_rounds_are_those_that_are_named(first: int, length: int | None, every: int) -> None:
    end = "" if length is None else str(first + length)
    rounds = Rounds.parse(f"{first}-{end},every={every}")
    stop = 200 if length is None else first + length + 1
    assert [t for t in range(1, 200) if t in rounds] == list(range(first, stop, every))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1-", ""),
        ("every=1", ""),
        ("1-,every=2", "every=2"),
        ("1-50,every=2", "1-49,every=2"),
        ("5-6, every=2", "5"),
        ("7-7", "7"),
        ("7", "7"),
    ],
)
def test_equal_rounds_have_one_text(text: str, canonical: str) -> None:
    assert Rounds.parse(text).text == canonical


# --- sums ---------------------------------------------------------------------------------------

NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
WHATS = st.one_of(
    NUMBERS.map(lambda a: f"scale:{a}"),
    st.floats(0, 1).map(lambda a: f"conform:{a}"),
    st.floats(0, 100).map(lambda a: f"noise:{a}"),
    st.floats(0.01, 1).map(lambda a: f"averaged:{a}"),
    st.sampled_from(["honest", "sign-flip", "zero", "my_module:Mine"]),
)
PARTS = st.builds(
    lambda what, rounds: f"{what} @ {rounds.text}" if rounds.text else what, WHATS, ROUNDS
)
TEXTS = st.lists(PARTS, min_size=1, max_size=4).map(" + ".join)


@given(TEXTS)
def test_a_canonical_text_is_its_own(text: str) -> None:
    assert canonical_strategy(canonical_strategy(text)) == canonical_strategy(text)


@given(TEXTS.filter(lambda text: "my_module" not in text), st.integers(1, 200))
def test_a_canonical_text_reports_the_same(text: str, t: int) -> None:
    assert torch.equal(reported(text, t), reported(canonical_strategy(text), t))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" scale:3.0  @ 1-50  +  honest @ 51- ", "scale:3 @ 1-50"),
        ("honest + honest @ 7", "honest"),
        ("averaged:1 + scale:1.0 + noise:0 @ 7 + conform:-0.0 + partial:0", "honest"),
        ("scale:1e5", "scale:100000"),
        ("label-flip:to=7,from=1", "label-flip:from=1,to=7"),
        ("my_lies:Flip@every=2", "my_lies:Flip @ every=2"),
        ("zero @ 1-", "zero"),
    ],
)
def test_equal_strategies_have_one_text(text: str, canonical: str) -> None:
    assert canonical_strategy(text) == canonical


@pytest.mark.parametrize(
    ("t", "factor"), [(1, 3.0), (50, 3.0), (51, 1.0), (52, -1.0), (53, 1.0), (60, -1.0)]
)
def test_each_part_is_active_in_its_rounds_and_the_rest_is_honest(t: int, factor: float) -> None:
    assert torch.equal(reported("scale:3 @ 1-50 + sign-flip @ 52-,every=2", t), factor * GRADIENT)


def test_parts_are_applied_one_after_the_other() -> None:
    noise = reported("noise:0.5", 3) - GRADIENT
    assert torch.allclose(reported("scale:3 + noise:0.5", 3), 3 * GRADIENT + noise, atol=1e-6)
    assert torch.allclose(reported("noise:0.5 + scale:3", 3), 3 * (GRADIENT + noise), atol=1e-5)


def test_where_no_part_is_active_the_gradient_itself_is_reported() -> None:
    assert reported("noise:1 @ 5-9", 4) is GRADIENT


def test_a_sum_alters_data_and_reports() -> None:
    strategy = parse_strategy("label-flip + scale:2 @ 4-")
    assert isinstance(strategy, AltersData)
    samples = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    assert strategy.data(samples)[1].tolist() == [2, 1, 0]
    assert torch.equal(reported("label-flip + scale:2 @ 4-", 4), 2 * GRADIENT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected name"),
        ("scale:3 + ", "one finite number"),
        ("scale:3 + + zero", "expected name"),
        ("scale:3 + lie", "strategy 'lie' is unknown"),
        ("scale:3 @", "write 7, 1-50 or 51-"),
        ("scale:3 @ 0-5", "write 7, 1-50 or 51-"),
        ("scale:3 @ 5,", "write 7, 1-50 or 51-"),
        ("scale:3 @ 1-50 @ 7", "write 7, 1-50 or 51-"),
        ("scale:3 @ every=0", "write 7, 1-50 or 51-"),
        (f"scale:3 @ 1-{5000 * '9'}", "write 7, 1-50 or 51-"),
        ("scale:3 @ 9-5", "end before they begin"),
        ("scale:3 @ 9,every=2", "write 9-"),
        ("label-flip @ 1-50", "data are altered once.*leave out @ 1-50"),
        ("zero + label-flip:from=1,to=7 @ 2-", "data are altered once"),
    ],
)
def test_a_bad_sum_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(text)
    assert "\n" not in str(refusal.value)


@given(st.text(alphabet="scalezero:0123456789-+@=,. evry_MmN", max_size=40))
def test_any_text_is_a_strategy_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        parse_strategy(text)
        assert canonical_strategy(canonical_strategy(text)) == canonical_strategy(text)


# --- users' own ---------------------------------------------------------------------------------

USERS_MODULE = """
import torch

class Flip:
    def report(self, gradient, context):
        return -gradient

class Wide:
    def report(self, gradient, context):
        return torch.cat([gradient, gradient], dim=1)

class Double:
    def report(self, gradient, context):
        return gradient.double()

class Infinite:
    def report(self, gradient, context):
        return gradient / 0.0

class Sparse:
    def report(self, gradient, context):
        return gradient.to_sparse()

class Silent:
    def report(self, gradient, context):
        pass

class Raises:
    def report(self, gradient, context):
        raise KeyError("plan")

class Relabel(Flip):
    def data(self, samples):
        inputs, labels = samples
        return inputs, 1 - labels

class Drops(Flip):
    def data(self, samples):
        return samples[:1]

class Floats(Flip):
    def data(self, samples):
        return samples[0], samples[1].float()

class Breaks(Flip):
    def data(self, samples):
        raise KeyError("plan")

class Sends:
    def sent(self, vectors, context):
        return self.made(vectors)

class Narrow(Sends):
    made = lambda self, vectors: vectors[:, :-1]

class Single(Sends):
    made = lambda self, vectors: vectors[0]

class Whole(Sends):
    made = lambda self, vectors: vectors.int()

class Listed(Sends):
    made = lambda self, vectors: [vectors]

class Endless(Sends):
    made = lambda self, vectors: vectors / 0.0

class Leaves(Sends):
    made = lambda self, vectors: exit(0)

class Crowd(Sends):
    made = lambda self, vectors: vectors[:, None].expand(-1, 5, -1)

class Alike(Sends):
    made = lambda self, vectors: vectors[:, None].expand(-1, 3, -1)

class Curious(Sends):
    overhears = property(lambda self: 1 / 0)

class Mute:
    pass

class Picky:
    def __init__(self, amount):
        pass

    def report(self, gradient, context):
        return gradient

def Function():
    return Flip()
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_strategies_for_test.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_strategies_for_test"


def test_a_users_strategy_is_used(users_module: str) -> None:
    strategy = parse_strategy(f"{users_module}:Flip")
    assert isinstance(strategy, UsersStrategy)
    assert torch.equal(strategy.report(GRADIENT, CONTEXT), -GRADIENT)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wide", r"the shape \(2, 8\), not \(2, 4\)"),
        ("Double", "torch.float64, not torch.float32"),
        ("Infinite", "not finite"),
        ("Sparse", "torch.sparse_coo tensor"),
        ("Silent", "a NoneType, not a tensor"),
        ("Raises", "KeyError"),
    ],
)
def test_a_users_bad_report_is_named_with_its_round(
    users_module: str, name: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(f"{users_module}:{name}").report(GRADIENT, CONTEXT)
    assert "round 3" in str(refusal.value)
    assert "\n" not in str(refusal.value)


SENDING = SendContext(3, 0, 7, (0, 5), ((1, 2), (1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Narrow", r"the shape \(2, 3\), not \(2, 4\)"),
        ("Single", r"the shape \(4,\), not \(2, 4\)"),
        ("Crowd", r"the shape \(2, 5, 4\), not \(2, 3, 4\)"),
        ("Whole", "torch.int32, not torch.float32"),
        ("Listed", "a list, not a tensor"),
        ("Endless", "not finite"),
        ("Leaves", "SystemExit: 0"),
    ],
)
def test_what_a_users_attack_may_not_send_is_named_with_its_round(
    users_module: str, name: str, words: str
) -> None:
    attack = parse_strategy(f"{users_module}:{name}")
    assert isinstance(attack, AltersVectors)
    with pytest.raises(ConfigurationError, match=rf"{name}.*sent\(\).*{words}") as refusal:
        attack.sent(GRADIENT, SENDING)
    assert "round 3" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_users_attack_may_expand_one_vector_for_all_its_receivers(users_module: str) -> None:
    """Each is then a tensor of its own, which can be saved."""
    attack = parse_strategy(f"{users_module}:Alike")
    assert isinstance(attack, AltersVectors)
    sent = attack.sent(GRADIENT, SENDING)
    assert sent.is_contiguous()
    assert torch.equal(sent, torch.stack([GRADIENT] * 3, dim=1))


def test_what_a_users_class_says_of_itself_may_fail_in_one_line(users_module: str) -> None:
    with pytest.raises(ConfigurationError, match="Curious': overhears failed .ZeroDivisionError"):
        marked(parse_strategy(f"{users_module}:Curious"), "overhears")


def test_a_diverged_gradient_is_not_blamed_on_the_users_strategy(users_module: str) -> None:
    report = parse_strategy(f"{users_module}:Flip").report(GRADIENT / 0.0, CONTEXT)
    assert not torch.isfinite(report).all()


SAMPLES = (torch.zeros(3, 2), torch.tensor([0, 1, 1]))


def test_a_users_strategy_may_alter_its_data(users_module: str) -> None:
    strategy = parse_strategy(f"{users_module}:Relabel")
    assert isinstance(strategy, AltersData)
    assert strategy.data(SAMPLES)[1].tolist() == [1, 0, 0]
    assert not isinstance(parse_strategy(f"{users_module}:Flip"), AltersData)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Drops", "must give a tuple of 2 tensors"),
        ("Floats", "torch.float32, not torch.int64"),
        ("Breaks", "KeyError"),
    ],
)
def test_users_bad_data_are_named(users_module: str, name: str, words: str) -> None:
    strategy = parse_strategy(f"{users_module}:{name}")
    assert isinstance(strategy, AltersData)
    with pytest.raises(ConfigurationError, match=rf"{name}.*data\(\).*{words}") as refusal:
        strategy.data(SAMPLES)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("my_strategies_for_test:Mute", r"lacks the method report\(\)"),
        ("my_strategies_for_test:Function", "is not a class"),
        ("my_strategies_for_test:Picky", "constructor failed"),
        ("my_strategies_for_test:Absent", "has no 'Absent'"),
        ("my_strategies_for_test:Relabel @ 7-", "data are altered once"),
        ("no_such_module:Flip", "cannot import"),
    ],
)
def test_a_class_that_is_no_strategy_is_refused_in_one_line(
    users_module: str, text: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        parse_strategy(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("honest", [0, 0]),
        ("scale:4 + noise:1", [0, 0]),
        ("zero", [1, 1]),
        ("scale:0", [1, 1]),
        ("zero @ 2-", [0, 1]),
        ("partial:0.25 + scale:2", [0.25, 0.25]),
        ("random-direction @ 1 + stale-copy @ 2", [1, 1]),
    ],
)
def test_who_reports_without_a_gradient_saves_its_work(text: str, shares: list[float]) -> None:
    assert [idleness(parse_strategy(text), t) for t in (1, 2)] == shares
