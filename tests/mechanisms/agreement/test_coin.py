"""The common coin: fair, the same everywhere, bounded whatever the cluster file is."""

import struct

import pytest
from blake3 import blake3

from candor.mechanisms.agreement.coin import coin_of, rounds_for, stretch_of, toss

SEED = bytes(range(32))
GOLDEN = [1, 7, 24, 28, 31, 37, 40, 44]


def test_a_known_sequence() -> None:
    """Golden: other implementations must draw the same; beside it the hash, written out anew."""
    coin = coin_of(SEED, 0.2)
    shown = [t for t in range(1, 50) if coin(t)]
    assert shown == GOLDEN
    hashes = {t: blake3(b"candor/coin/v1" + SEED + struct.pack(">Q", t)) for t in range(2, 50)}
    heads = [t for t, h in hashes.items() if struct.unpack(">Q", h.digest()[:8])[0] < 0.2 * 2**64]
    assert shown == [1, *heads]


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.7, 1.0])
def test_heads_come_with_their_chance_and_round_1_has_them(probability) -> None:
    rounds = 20_000
    coin = coin_of(b"seed", probability)
    heads = [coin(t) for t in range(1, rounds + 1)]
    assert heads[0]
    deviation = (probability * (1 - probability) / rounds) ** 0.5
    assert abs(sum(heads) / rounds - probability) <= 4 * deviation


def test_whoever_ground_the_file_cannot_delay_heads_beyond_the_stretch(monkeypatch) -> None:
    monkeypatch.setattr("candor.mechanisms.agreement.coin.toss", lambda *_: False)
    longest = stretch_of(0.2)
    assert 0.8**longest <= 2**-20 < 0.8 ** (longest - 1)
    coin = coin_of(b"any", 0.2)
    shown = [t for t in range(1, 4 * longest) if coin(t)]
    assert shown == list(range(1, 4 * longest, longest + 1))


def test_the_least_chance_has_no_heads_but_the_first_and_late_rounds_take_no_longer(
    monkeypatch,
) -> None:
    asked = []

    def counted(seed: bytes, t: int, probability: float) -> bool:
        asked.append(t)
        return toss(seed, t, probability)

    monkeypatch.setattr("candor.mechanisms.agreement.coin.toss", counted)
    coin = coin_of(SEED, 5e-324)
    assert [t for t in (*range(1, 50), 10_000, 9_999, 10_000) if coin(t)] == [1]
    assert len(asked) == 10_000 - 1


def test_rounds_are_as_many_as_the_trajectories_take() -> None:
    coin = coin_of(b"other", 0.2)
    sums, total = [], 0
    for t in range(1, 200):
        total += 50 if coin(t) else 4
        sums.append(total)
    for trajectories in (1, 49, 50, 51, sums[100], sums[100] + 1):
        rounds = rounds_for(trajectories, coin, 50, 4)
        assert sums[rounds - 1] >= trajectories
        assert rounds == 1 or sums[rounds - 2] < trajectories


def test_a_run_has_coins_of_its_own_by_its_seed_alone() -> None:
    one, other = ([toss(g, t, 0.5) for t in range(64)] for g in (b"a", b"b"))
    assert one != other
    assert one == [toss(b"a", t, 0.5) for t in range(64)]
