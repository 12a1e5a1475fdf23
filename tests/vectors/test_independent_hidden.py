"""Both implementations of docs/protocol.md refuse the same vectors that sketches hide."""

import numpy as np
import pytest

from candor.agent.core.terms import evidence_terms
from candor.mechanisms.evidence.examiner import Examiner
from candor.mechanisms.evidence.hidden import HIDDEN, explained
from candor.mechanisms.evidence.statements import EvidenceError, Row
from candor.topologies.cluster.file import TaskSettings, load_cluster, model_digest
from tests.independent import hidden, rounds, wire
from tests.runs import write_cluster

SIZE, DIM = 1_024, 4_500  # buckets of four and of five coordinates


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The examiner of a run, and what the other implementation knows of it."""
    folder = tmp_path_factory.mktemp("hidden")
    initial = np.zeros(DIM, np.float32)
    task = TaskSettings(name="fixed", parameters=DIM, model_digest=model_digest(initial))
    write_cluster(folder, aggregator="rfa", max_byzantine=1, sketch_size=SIZE, task=task)
    ours = load_cluster(folder / "cluster.toml")
    cluster = wire.Cluster.parse((folder / "cluster.toml").read_text())
    return Examiner(evidence_terms(ours, initial)), cluster


def poison(cluster, kind, length, generator):
    """A vector that the signs of window 0 cancel: in two coordinates, or in two of each bucket."""
    found = np.zeros(DIM)
    sizes = generator.standard_normal(SIZE) * (1.0 if kind == "spread" else np.arange(SIZE) == 7)
    for first, turned in ((0, 1.0), (SIZE, -1.0)):
        ones = np.zeros(DIM)
        ones[first : first + SIZE] = 1.0
        signs = rounds.folded("candor/sketch-signs/v1", cluster.run, 0, ones, SIZE)
        found[first : first + SIZE] = turned * signs * sizes
    return (length * found / np.linalg.norm(found)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "length", "refused"),
    [
        ("none", 0.0, False),
        ("few", 0.0, False),
        ("spread", 0.1, False),
        ("spread", 3.0, True),
        ("pair", 0.1, False),
        ("pair", 6.0, True),
        ("alone", 1e-3, True),  # beside a difference of nothing
        ("alone", 1e-8, False),  # rounding
    ],
)
def test_the_same_vectors_are_refused(both, kind, length, refused):
    examiner, cluster = both
    generator = np.random.default_rng(3)
    own = generator.standard_normal(DIM).astype(np.float32)
    apart = generator.standard_normal(DIM).astype(np.float32)
    if kind == "few":
        apart[generator.permutation(DIM)[5:]] = 0.0
    apart *= np.float32((kind != "alone") / np.linalg.norm(apart))
    theirs = own + apart
    if length:
        theirs += poison(cluster, "spread" if kind == "alone" else kind, length, generator)
    row = [Row((("a1", 1.0),))]
    mine, said = (examiner.state(1, 0, "a1", vector, row) for vector in (own, theirs))
    assert rounds.sketch(cluster, 0, theirs) == said.sketch
    assert hidden.hides(cluster, own, theirs, mine.sketch, said.sketch) == refused
    if refused:
        with pytest.raises(EvidenceError, match=f"^{HIDDEN}"):
            examiner.check_hidden(own, theirs, mine, said, capped=True)
    else:
        examiner.check_hidden(own, theirs, mine, said, capped=True)


def test_more_values_of_l_bound_what_signs_hide_a_little_closer(both):
    _, cluster = both
    generator = np.random.default_rng(4)
    for zeros in (0, 4_000, 4_480):
        u = generator.standard_normal(DIM).astype(np.float32)
        u[generator.permutation(DIM)[:zeros]] = 0.0
        ours = explained(np.zeros(DIM, np.float32), u, SIZE)
        theirs = hidden.explained(u.astype(np.float64), cluster.k)
        assert theirs <= ours * (1 + 1e-9)
        assert theirs >= 0.95 * ours
