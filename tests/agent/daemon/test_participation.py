"""Who took part in which share of a run, from what each agent counted."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from candor.agent.cli.agent import command
from candor.agent.daemon.metrics import RoundMetrics
from candor.agent.daemon.participation import (
    Heard,
    Part,
    View,
    absence,
    participation,
    participation_words,
    parts_of,
    seen_in,
)
from candor.agent.daemon.recorder import Recorder
from candor.agent.daemon.status import NeighbourStatus, Status, read_status
from candor.agent.exits import ABSENT
from candor.agent.runs.summary import participation_of
from tests.runs import LocalRun, write_cluster

RING = {"a0": "a1 a3", "a1": "a0 a2", "a2": "a1 a3", "a3": "a0 a2"}


def lines(rounds, missing=lambda t: ()):
    """Lines of metrics.csv of some rounds; `missing`: whom a round did without."""
    return [
        RoundMetrics(t, 0.1 * t, 0.5, None, 1.0, 0, 0, 0, 2 - len(missing(t)), tuple(missing(t)))
        for t in rounds
    ]


def view(agent, rounds, missing=lambda t: ()):
    return View.of_lines(lines(rounds, missing), lambda _: RING[agent].split())


def test_who_was_away_for_some_rounds_has_the_share_of_the_others():
    """a2 is dead in rounds 21 to 30 and late in 5, for a1 alone."""
    dead = range(21, 31)
    views = {
        "a0": view("a0", range(1, 41)),
        "a1": view("a1", range(1, 41), lambda t: ["a2"] if t in dead or t == 5 else []),
        "a2": view("a2", [t for t in range(1, 41) if t not in dead]),
        "a3": view("a3", range(1, 41), lambda t: ["a2"] if t in dead else []),
    }
    parts = participation(views)
    assert parts["a2"] == Part(59 / 80, performed=30, due=80, mixed=59, last_round=40)
    assert [agent for agent, part in parts.items() if part.throughout] == ["a0", "a1", "a3"]
    assert participation_words(parts) == (
        "3 of 4 agents took part throughout; a2 was mixed in 73 % of rounds by its neighbours, "
        "last seen in round 40"
    )


def test_rounds_before_a_late_start_and_after_an_early_end_are_missed():
    late = {
        "a0": view("a0", range(1, 11), lambda t: ["a1"] if t <= 4 else []),
        "a1": view("a1", range(5, 11)),
    }
    assert participation(late)["a1"].share == 0.6
    gone = {
        "a0": view("a0", range(1, 11), lambda t: ["a1"] if t > 4 else []),
        "a1": view("a1", range(1, 5)),
    }
    assert participation(gone)["a1"] == Part(0.4, performed=4, due=10, mixed=4, last_round=4)


def test_who_is_away_together_with_all_that_would_mix_it_has_missed_those_rounds_too():
    """a0 and its neighbours a1 and a3 are away in rounds 1 to 5; only a2 sees the run go on."""
    away = {agent: view(agent, range(6, 11)) for agent in ("a0", "a1", "a3")}
    there = view("a2", range(1, 11), lambda t: ["a1", "a3"] if t < 6 else [])
    parts = participation({**away, "a2": there})
    assert parts["a0"].share == 0.5
    assert parts["a0"].mixed == parts["a0"].due == 10
    assert "a0 performed 50 % of the rounds, last seen in round 10" in participation_words(parts)
    assert parts["a2"].throughout


def test_rounds_in_which_the_schedule_has_nobody_mix_an_agent_are_no_absence():
    """Pairs by turns: a0 and a1 mix in odd rounds, and nobody in even ones."""
    turns = {"a0": ["a1"], "a1": ["a0"]}
    views = {
        agent: View.of_lines(lines(range(1, 9)), lambda t, a=agent: turns[a] if t % 2 else [])
        for agent in turns
    }
    parts = participation(views)
    assert parts["a0"] == Part(1.0, performed=8, due=4, mixed=4, last_round=7)
    assert participation_words(parts) == "all 2 agents took part throughout"


def test_an_agent_alone_has_its_own_word_only():
    parts = participation({"a0": View.of_lines(lines([1, 2, 4]), lambda _: [])})
    assert parts["a0"] == Part(0.75, performed=3, due=0, mixed=0, last_round=4)
    assert "a0 performed 75 % of the rounds, last seen in round 4" in participation_words(parts)


def test_who_left_and_who_came_back_are_judged_by_the_rounds_that_they_were_in():
    """a2 leaves after round 16; a1 did, and is in again since round 25."""
    away = lambda t: ["a1"] if 8 < t < 25 else []  # noqa: E731
    taken = lambda t: [a for a in ("a1", "a3") if a not in away(t)]  # noqa: E731
    views = {
        "a0": View.of_lines(lines(range(1, 41)), taken),
        "a1": View.of_lines(lines([*range(1, 9), *range(25, 39)]), lambda _: ["a0"], since=25),
        "a2": View.of_lines(lines(range(1, 17)), lambda _: [], left=16),
    }
    parts = participation(views)
    assert parts["a2"].throughout
    assert (parts["a1"].share, parts["a1"].performed) == (14 / 16, 14)
    left = Status("demo", "a2", "ab", 1, "done", 16, 40, performed_rounds=16)
    assert View.of_status(left) == View(16, 16, {}, 1, 16)


def test_before_the_first_round_nothing_is_said():
    assert participation({}) == participation({"a0": View()}) == {}
    assert participation_words({}) == ""


def test_a_percentage_is_rounded_down():
    def told(missed):
        heard = {"a1": Heard(due=1000, mixed=1000 - missed, last=1000 - missed)}
        return participation_words(participation({"a0": View(1000, 1000, heard)}))

    assert "in 99 % of rounds" in told(1)
    assert told(1000).endswith("a1 was mixed in 0 % of rounds by its neighbours, never seen")


def test_of_many_the_least_are_named_and_the_rest_counted():
    heard = {f"a{n}": Heard(100, n, n) for n in range(1, 20)}
    words = participation_words(participation({"z": View(100, 100, heard)}))
    assert words.startswith("1 of 20 agents took part throughout; a1 was mixed in 1 %")
    assert words.endswith(
        "a12 was mixed in 12 % of rounds by its neighbours, last seen in round 12; and 7 more"
    )


def test_who_took_part_in_less_than_is_required_is_named():
    parts = {"a0": Part(1.0, 10, 20, 20, 10), "a1": Part(0.6, 6, 20, 12, 10)}
    assert absence(parts, None) == absence(parts, 0.6) == ""
    assert absence(parts, 0.61) == "took part in less than 61 % of the rounds: a1"


def test_a_summary_reads_back_and_what_is_no_part_of_it_is_left_out():
    part = Part(0.5, None, 4, 2, 3)
    stored = {"share": 0.5, "performed": None, "due": 4, "mixed": 2, "last_round": 3}
    assert parts_of({"a0": stored, "a1": {**stored, "share": "half"}, "a2": 1}) == {"a0": part}
    assert parts_of(None) == {}


def test_the_summary_of_a_run_knows_the_schedule(tmp_path):
    cluster = write_cluster(tmp_path, rounds=4)
    parts = participation_of(cluster, {agent: lines(range(1, 5)) for agent in cluster.ids})
    assert list(parts) == list(cluster.ids)
    assert parts["a0"] == {
        "share": 1.0, "performed": 4, "due": 8, "mixed": 8, "last_round": 4
    }  # fmt: skip


def test_a_status_of_an_earlier_version_says_nothing_of_it():
    one = Status("demo", "a0", "ab" * 32, 1, "done", 8, 8, neighbours={"a1": NeighbourStatus("x")})
    assert seen_in([one]) == {}


@pytest.fixture
def restarted(tmp_path):
    """An agent that performed rounds 1 to 3 without a1 in the last, and died; its next life."""
    cluster = write_cluster(tmp_path, rounds=12)
    run = LocalRun(tmp_path, cluster)
    run.start()
    run.run()
    data_dir = tmp_path / "agents" / "a0"

    def life():
        return Recorder(
            data_dir,
            run_id=cluster.run_id,
            fingerprint=cluster.fingerprint,
            rounds=12,
            record_sketches=False,
            taken=lambda t: cluster.round_weights.of(t).taken["a0"],
        )

    with life() as recorder:
        for t in (1, 2, 3):
            missing = ("a1",) if t == 3 else ()
            recorder.round_over(outcome(t, missing), run.nodes["a0"].core)
    yield cluster, life, run.nodes["a0"].core, data_dir
    run.close()


def outcome(t, missing):
    from candor.agent.daemon.daemon import RoundOutcome
    from candor.agent.tasks.measured import Measured

    measured = Measured(0.25 * t, {}, 0.5) if t == 2 else None
    return RoundOutcome(t, 0.5 / t, measured, 1.5, 2 - len(missing), missing)


def test_a_restart_forgets_no_round_and_its_status_goes_on_from_the_last(restarted):
    _, life, core, data_dir = restarted
    (data_dir / "status.json").unlink()
    with life() as recorder:
        recorder.ticked(core)  # it has not been let in again yet
        status = read_status(data_dir)
        assert (status.round, status.train_loss, status.injected_norm) == (3, 0.5 / 3, 1.5)
        assert (status.test_accuracy, status.local_metric) == (0.5, 0.5)
        recorder.round_over(outcome(6, ()), core)
        recorder.ended(core, "done")
    status = read_status(data_dir)
    assert (status.round, status.performed_rounds) == (6, 4)
    seen = status.neighbours["a1"]
    assert (seen.due_rounds, seen.mixed_rounds) == (4, 3)
    parts = seen_in([status])
    assert parts["a0"].share == 4 / 6
    assert parts["a1"].share == 0.75
    assert parts["a3"].throughout


@pytest.mark.parametrize(("required", "code"), [(None, 0), ("0.6", 0), ("0.7", ABSENT)])
def test_a_run_that_is_done_says_again_who_was_away(
    restarted, tmp_path: Path, required: str | None, code: int
):
    _, life, core, data_dir = restarted
    with life() as recorder:
        recorder.round_over(outcome(6, ()), core)
        recorder.ended(core, "done")
    words = ["--cluster", str(tmp_path / "cluster.toml"), "--id", "a0"]
    words += ["--keys", str(data_dir / "keys"), "--data-dir", str(data_dir)]
    words += ["--require-participation", required] if required else []
    result = CliRunner().invoke(command, words)
    assert result.exit_code == code
    told = "as a0 saw it, took part in less than 70 % of the rounds: a0"
    assert (told in result.output) == bool(code)
