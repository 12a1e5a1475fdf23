"""`--weights`: what is asked for becomes what agents declare, or is refused in one line."""

import pytest

from candor.agent.runs import declared
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.topologies.specs.specs import ConfigurationError
from tests.sized import samples

IDS = ["a0", "a1", "a2"]


def weights(asked: str, counted=None) -> list[float | None]:
    return [one.weight for one in declared.declaring(stand_in_entries(IDS), asked, counted)]


def test_all_count_alike_unless_told() -> None:
    assert weights("equal") == [None] * 3


def test_samples_are_counted_where_the_data_are_here() -> None:
    assert weights("samples", lambda: [5, 7, 9]) == [5.0, 7.0, 9.0]
    found = declared.samples_of("tests.sized:Quadratics", 3, "iid", 0, None)
    assert found == [samples(i) for i in range(3)]
    digits = declared.samples_of("digits", 4, "dirichlet:0.5", 0, None)
    assert len(digits) == 4
    assert len(set(digits)) > 1
    assert sum(digits) == sum(declared.samples_of("digits", 2, "iid", 0, None))


def test_numbers_go_to_whom_they_name_in_any_order() -> None:
    assert weights("a2=7, a0=0.5,a1=1e6") == [0.5, 1e6, 7.0]


def test_what_was_declared_can_be_asked_for_again() -> None:
    for asked in ("equal", "a0=0.1,a1=3.3333333333333335,a2=7.0"):
        entries = declared.declaring(stand_in_entries(IDS), asked, None)
        again = declared.declaring(stand_in_entries(IDS), declared.as_asked(entries), None)
        assert again == entries


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ("sample", "write equal, samples, or ID=NUMBER"),
        ("", "write equal, samples, or ID=NUMBER"),
        ("a0", "write equal, samples, or ID=NUMBER"),
        ("a0=1,", "write equal, samples, or ID=NUMBER"),
        ("a0=1,a1=2", "none is given of agent 'a2'"),
        ("a0=1,a1=2,a2=3,a3=4", "a3=…: no such agent; they are a0 … a2"),
        ("a0=1,a0=2,a1=1,a2=1", "'a0' is named twice"),
        ("a0=many,a1=1,a2=1", "a0=many: a weight is a number from 1e-06 to 1e+12"),
        ("a0=0,a1=1,a2=1", "a0=0: a weight is a number"),
        ("a0=-5,a1=1,a2=1", "a0=-5: a weight is a number"),
        ("a0=nan,a1=1,a2=1", "a0=nan: a weight is a number"),
        ("a0=inf,a1=1,a2=1", "a0=inf: a weight is a number"),
        ("a0=1.1e12,a1=1,a2=1", "a weight is a number"),
        ("samples", "is theirs to say, by `candor cluster request --weight`"),
    ],
)
def test_anything_else_is_refused_in_one_line(asked: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        weights(asked)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_loads_its_own_data_is_not_counted(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_loop_for_weights.py").write_text(
        "class Loop:\n"
        "    def build_model(self): ...\n"
        "    def train(self, model, context): ...\n"
        "    def evaluate(self, model): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        declared.samples_of("my_loop_for_weights:Loop", 2, "iid", 0, None)
    assert "load_data" in str(caught.value)
    assert "\n" not in str(caught.value)


def entries(*weights: float | None):
    made = stand_in_entries([f"a{i}" for i in range(len(weights))])
    changed = zip(made, weights, strict=True)
    return [entry.model_copy(update={"weight": weight}) for entry, weight in changed]


def test_requests_declare_what_is_asked_for() -> None:
    declared.check_declared(entries(None, None), "equal")
    declared.check_declared(entries(1.0, 2.0), "samples")


@pytest.mark.parametrize(
    ("weights", "asked", "complaint"),
    [
        ((None, 1.0, None), "samples", "agent 'a0' and 1 more declared nothing"),
        ((None, 1.0), "equal", "agent 'a1' declared a weight in a signed request"),
        ((1.0, 1.0), "a0=1,a1=2", "declare theirs themselves"),
        ((None, None), "a0=1,a7=2", "a7=…: no such agent"),
    ],
)
def test_a_request_that_declares_otherwise_is_named(weights, asked: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declared.check_declared(entries(*weights), asked)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
