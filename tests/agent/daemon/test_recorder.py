"""What a daemon leaves while it runs: a row of sketches for each line of metrics."""

from pathlib import Path

import numpy as np

from candor.agent.daemon.daemon import RoundOutcome
from candor.agent.daemon.metrics import read_metrics
from candor.agent.daemon.recorder import Recorder
from candor.agent.daemon.status import read_status
from candor.agent.runs.directory import read_run_directory
from candor.agent.tasks.measured import Measured
from candor.mechanisms.evidence.statements import Statement
from tests.agent.core.test_bartering import FREE_RIDER, lying, traded_run, with_rating
from tests.runs import LocalRun, write_cluster

WIDTH = 16


def test_a_restarted_daemon_cuts_the_sketch_of_the_round_it_died_in(tmp_path: Path) -> None:
    """Two lives: rounds 1 to 3 and a fourth that was stated and not finished, then 10 to 12."""
    cluster = write_cluster(tmp_path, rounds=12)
    run = LocalRun(tmp_path, cluster)
    run.start()
    run.run()
    core, data_dir = run.nodes["a0"].core, tmp_path / "agents" / "a0"
    for rounds, torn in (((1, 2, 3), 4), ((10, 11, 12), None)):
        recorder = Recorder(
            data_dir,
            run_id=cluster.run_id,
            fingerprint=cluster.fingerprint,
            rounds=12,
            record_sketches=True,
            taken=lambda _: ("a1", "a3"),
        )
        with recorder:
            for t in rounds:
                recorder.stated(stated(t))
                outcome = RoundOutcome(t, 0.5, None, 1.0, 2, (), weightless=("a1",) * (t % 2))
                recorder.round_over(outcome, core)
            recorder.ended(core, "interrupted")
        if torn is not None:  # killed between the row and the line
            with (data_dir / "sketches.f64").open("ab") as file:
                file.write(stated(torn).sketch)
    run.close()
    assert read_status(data_dir).neighbours["a1"].weightless_rounds == 3  # 1, 3 and 11
    [found] = [one for one in read_run_directory(tmp_path).agents if one.agent == "a0"]
    assert found.sketches is not None
    assert list(found.sketch_rounds) == [1, 2, 3, 10, 11, 12]
    assert np.allclose(found.sketches[:, 0], [1, 2, 3, 10, 11, 12])


def test_all_that_was_measured_is_written_down(tmp_path: Path) -> None:
    """Rounds 1 and 3 are evaluated: the status has the last values, the metrics those of each."""
    run = LocalRun(tmp_path, cluster := write_cluster(tmp_path, rounds=3))
    run.start()
    core, data_dir = run.nodes["a0"].core, tmp_path / "agents" / "a0"
    recorder = Recorder(
        data_dir,
        run_id=cluster.run_id,
        fingerprint=cluster.fingerprint,
        rounds=3,
        record_sketches=False,
        taken=lambda _: ("a1", "a3"),
        metric="rmse",
        better="lower",
    )
    first = Measured(12.5, {"rmse": 12.5, "r2": -0.25}, 3.0)
    last = Measured(2.5, {"rmse": 2.5, "r2": 0.75})
    with recorder:
        recorder.started(core)
        assert read_status(data_dir).test_accuracy is None
        for t, measured in ((1, first), (2, None), (3, last)):
            recorder.round_over(RoundOutcome(t, 0.5, measured, 1.0, 2, ()), core)
        recorder.ended(core, "done")
    run.close()
    status, lines = read_status(data_dir), read_metrics(data_dir / "metrics.csv")
    assert (status.metric, status.better, status.test_accuracy) == ("rmse", "lower", 2.5)
    assert (status.metrics, status.local_metric) == ({"rmse": 2.5, "r2": 0.75}, None)
    assert [line.test_accuracy for line in lines] == [12.5, None, 2.5]
    assert [line.local_metric for line in lines] == [3.0, None, None]
    assert [line.metrics for line in lines] == [first.metrics, {}, last.metrics]


def stated(t: int) -> Statement:
    """A statement of which only the sketch counts here: WIDTH times the round's number."""
    return Statement(
        run=bytes(32), round=t, phase=0, agent="a0", codec="float32", digest=bytes(32), dim=40,
        formed=(), step_size=0.5, sketch=np.full(WIDTH, float(t)).astype("<f8").tobytes(),
        next_sketch=b"",
    )  # fmt: skip


def test_the_status_says_who_is_rated_how_and_who_gives_less_than_it_should(tmp_path):
    """One gives its neighbour less than it earns, and one does nothing."""
    run = traded_run(tmp_path, rounds=6)
    run.start()
    lying(run, "a1", 6, lambda said: with_rating(said, "a0", groups=0))
    run.run()
    core, data_dir = run.nodes["a0"].core, tmp_path / "agents" / "a0"
    cluster = run.cluster
    names = {"run_id": cluster.run_id, "fingerprint": cluster.fingerprint, "rounds": 6}
    with Recorder(data_dir, **names, record_sketches=False, taken=lambda _: ()) as recorder:
        recorder.ended(core, "done")
    run.close()
    status = read_status(data_dir)
    idle, cheat = status.neighbours[FREE_RIDER], status.neighbours["a1"]
    assert status.score > 0.1
    assert idle.reputation < 0.2
    assert abs(idle.score) < 1e-5
    assert (idle.share, idle.given) == (0.0, 1.0)
    assert cheat.share == 1.0
    assert cheat.misrated == 1
    assert idle.misrated == 0
    assert core.why_absent("a1") == "proven guilty: false-rating in round 6"
