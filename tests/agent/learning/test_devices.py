"""Which device trains, by its name; no accelerator is needed, its presence is made up."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from candor.agent.learning.learner import Learner, LocalTraining
from candor.agent.learning.reporting import Reporting
from candor.agent.learning.rows import TrainedRows, usable_device
from candor.topologies.specs.specs import ConfigurationError

UNKNOWN = ("tpu", "", "cpu:0", "mps:0", "cuda:", "cuda:-1", "cuda:9999", "cuda:²")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says how many CUDA devices there are, and whether Apple's is."""

    def say(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return say


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")]
)
def test_auto_is_the_best_that_is_there(there: Any, cuda: int, mps: bool, best: str) -> None:
    there(cuda, mps)
    assert usable_device("auto") == torch.device(best)
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken_by_its_name(there: Any, name: str) -> None:
    there(2, True)
    assert str(usable_device(name)) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "device cuda: torch finds none here"),
        ("cuda:1", "device cuda:1: torch finds none here"),
        ("mps", "device mps: torch finds none here"),
        *((name, "is unknown; known: auto, cpu, cuda, ") for name in UNKNOWN),
    ],
)
def test_a_device_that_is_not_there_is_one_line(there: Any, name: str, words: str) -> None:
    there()
    with pytest.raises(ConfigurationError, match=words) as caught:
        usable_device(name)
    assert "\n" not in str(caught.value)


def test_the_number_of_a_device_is_below_how_many_there_are(there: Any) -> None:
    there(2)
    with pytest.raises(ConfigurationError, match="device cuda:2: torch finds cuda:0 to cuda:1 "):
        usable_device("cuda:2")


def test_rows_go_to_where_the_learner_trains_and_come_back() -> None:
    """Its device is meta, which holds no values: whatever were computed with it would fail."""
    seen: list[torch.device] = []

    class Elsewhere:
        device = torch.device("meta")

        def local_steps(self, x: Tensor, *_: object) -> LocalTraining:
            seen.append(x.device)
            ones = torch.ones(x.shape)
            return LocalTraining(ones, torch.zeros(1), ones.to("meta"))

    learner, honest = cast(Learner, Elsewhere()), Reporting(0, [0], {})
    rows = TrainedRows(learner, honest, lambda _: torch.ones(1, 1))
    state: dict[str, Tensor] = {}
    moved = rows.local_steps(torch.zeros(1, 3), 1, 0.1, state)
    assert moved.device == torch.device("cpu")
    assert seen == [torch.device("meta")]
    assert state["velocity"].device == torch.device("meta")  # it stays with the learner
