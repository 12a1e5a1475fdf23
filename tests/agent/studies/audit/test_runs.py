"""Which runs of an audit are one and the same, and which are not."""

from dataclasses import replace
from pathlib import Path

from candor.agent.studies.audit import runs
from candor.agent.studies.audit.question import MORE, Kind, Question, Reward, Run, doubled
from tests.runs import write_cluster


def test_a_kept_run_is_named_by_what_it_depends_on_and_by_nothing_else(tmp_path, monkeypatch):
    cluster = write_cluster(tmp_path)
    question, honest = Question([cluster], ("a0",), fine_tune=50), Run(cluster)

    def key(run: Run = honest, **asked: object) -> str:
        return runs.key_of(replace(question, **asked), run)

    others = [
        key(reward=Reward.TRAINING),
        key(fine_tune=100),
        *(key(replace(honest, kind=kind)) for kind in (Kind.LEARNING, Kind.ALONE)),
        *(key(Run(doubled(cluster, *of))) for of in MORE.values()),
        *(key(Run(cluster, "zero", (agent,))) for agent in cluster.ids[:2]),
        key(Run(cluster, "scale:2", cluster.ids[:1])),
    ]
    assert len({key(), *others}) == 1 + len(others)
    # What is only reckoned with afterwards runs nothing anew.
    assert key(agents=("a1",), cost=1.0, weight=1.0, epsilon=0.1, factor=2.0) == key()
    before = key()
    monkeypatch.setattr(runs, "RUNS_VERSION", runs.RUNS_VERSION + 1)
    assert key() != before


def test_adoubled_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path)
    fingerprints = {cluster.fingerprint}  # cached: a copy would keep it
    step, rounds = (doubled(cluster, *of) for of in MORE.values())
    assert step.algorithm.step_size == 2 * cluster.algorithm.step_size
    assert rounds.rounds.rounds == 2 * cluster.rounds.rounds
    assert len(fingerprints | {step.fingerprint, rounds.fingerprint}) == 3
