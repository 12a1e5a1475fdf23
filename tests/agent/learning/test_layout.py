"""What of a model travels, how it lies in a vector, and what stays."""

import pytest
import torch
from torch import Tensor, nn

from candor.agent.learning.layout import check_apart, frozen_digest, layout_of, tensors_of
from candor.topologies.specs.specs import ConfigurationError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(x)) * self.mask)
        return out


class Wishes:
    """A task that says what is shared."""

    def __init__(self, build: type[nn.Module] = Net, **said: object) -> None:
        self.build_model = build
        self.__dict__.update(said)

    def evaluate(self, model: nn.Module) -> float:
        return 0.0


def test_by_default_all_trainable_parameters_travel_and_buffers_stay() -> None:
    model = Net()
    layout = layout_of(Wishes(), model)
    assert layout.names == tuple(dict(model.named_parameters()))
    assert layout.own == ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    assert layout.dim == sum(p.numel() for p in model.parameters())
    assert layout.frozen == ()


def test_averaged_buffers_travel_but_for_counts() -> None:
    layout = layout_of(Wishes(buffers="averaged"), Net())
    assert layout.names[-2:] == ("norm.running_mean", "norm.running_var")
    assert layout.own == ("norm.num_batches_tracked",)


def test_frozen_parameters_do_not_travel_and_their_digest_shows_every_bit() -> None:
    model = Net()
    model.body.requires_grad_(False)
    layout = layout_of(Wishes(), model)
    assert layout.frozen == ("body.weight", "body.bias")
    assert not set(layout.frozen) & set(layout.names)
    before = frozen_digest(layout, model)
    assert before == frozen_digest(layout, model)
    with torch.no_grad():
        model.body.weight[0, 0] = torch.nextafter(model.body.weight[0, 0], torch.tensor(9.0))
    assert frozen_digest(layout, model) != before
    assert frozen_digest(layout_of(Wishes(), Net()), Net()) is None


def test_hosts_that_share_others_have_other_digests() -> None:
    model = Net()
    digests = {
        frozen_digest(layout_of(Wishes(**said), model), model)  # type: ignore[arg-type]
        for said in ({}, {"buffers": "averaged"}, {"shared": ["*.bias"]}, {"shared": ["head.*"]})
    }
    assert len(digests) == 4


def test_patterns_choose_what_is_shared() -> None:
    layout = layout_of(Wishes(shared=["head.*", "*.bias"]), Net())
    assert layout.names == ("body.bias", "norm.bias", "head.weight", "head.bias")
    assert "body.weight" in layout.own


def test_a_tied_parameter_travels_once_whichever_name_is_asked_for() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 4, bias=False)
            self.out.weight = self.body.weight

    layout = layout_of(Wishes(Tied, shared=["out.*"]), Tied())
    assert layout.names == ("body.weight",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_vector_and_a_model_are_two_forms_of_the_same(dtype: torch.dtype) -> None:
    first, second = Net().to(dtype), Net().to(dtype)
    layout = layout_of(Wishes(buffers="averaged"), first)
    x = layout.of(first)
    assert x.dtype == torch.float32
    layout.fill(second, x)
    assert torch.equal(layout.of(second), x) or dtype == torch.float64
    for name in layout.names:
        assert tensors_of(second)[name].dtype == dtype
    assert layout.exact == (dtype == torch.float32)


def test_what_stays_can_be_put_back() -> None:
    model = Net()
    layout = layout_of(Wishes(), model)
    owned = layout.owned(model)
    model(torch.randn(8, 3))
    assert int(model.norm.num_batches_tracked) == 1
    layout.put_back(model, owned)
    assert int(model.norm.num_batches_tracked) == 0
    assert torch.equal(model.norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"shared": ["tail.*"]}, r"shared names 'tail\.\*'.* there are body\.weight, "),
        ({"shared": []}, "shared is empty"),
        ({"shared": 3}, r"shared is 3; give patterns"),
        ({"buffers": "mean"}, "buffers is 'mean', neither 'local' nor 'averaged'"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(said: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^task: {words}") as refusal:
        layout_of(Wishes(**said), Net())  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


def test_a_model_without_numbers_is_refused() -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(ConfigurationError, match="meta device"):
        layout_of(Wishes(), model)


def test_a_parameter_that_lies_in_anothers_memory_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(model[0].weight.data.T)
    with pytest.raises(ConfigurationError, match=r"1\.weight lies in the memory of another"):
        layout_of(Wishes(), model)


def test_parameters_may_lie_between_each_other_in_one_memory() -> None:
    model = nn.Linear(3, 3)
    both = torch.arange(12.0).reshape(3, 4)
    model.weight.data, model.bias.data = both[:, :3], both[:, 3]
    assert layout_of(Wishes(), model).dim == 12


def test_models_of_two_agents_share_nothing_that_changes() -> None:
    one, other = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    one[0].requires_grad_(False)
    other[0] = one[0]  # frozen: may well be one and the same
    check_apart(layout_of(Wishes(), one), one, other)
    other[1].bias = one[1].bias
    with pytest.raises(ConfigurationError, match=r"the very same 1\.bias twice"):
        check_apart(layout_of(Wishes(), one), one, other)
