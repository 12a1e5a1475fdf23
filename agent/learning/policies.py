"""The policies of many agents at once: logits of actions from observations, a row each.

Two uses: choosing actions, step by step and without a gradient, and the logarithms of
probabilities of all that was done, with one. A network of linear layers with tanh or ReLU is
written out as products of batches of matrices in binary64, the first use in numpy: for a policy of
some hundred numbers torch would spend its time on being called. Any other model runs under
`torch.func.vmap`.
"""

from collections.abc import Callable
from itertools import count
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from candor.agent.learning.layout import Layout
from candor.agent.tasks.checked import faults_of
from candor.topologies.specs.specs import ConfigurationError

Acting: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From observations (agents, episodes, *shape) to logits (agents, episodes, actions)."""

_KNOWN: Final = (nn.Linear, nn.Tanh, nn.ReLU)


class Policy(Protocol):
    """Policies whose parameters are the rows of x (agents, dim)."""

    def acting(self, x: Tensor) -> Acting:
        """What chooses actions by the policies x, without gradients."""
        ...

    def logits(self, x: Tensor, observations: Tensor) -> Tensor:
        """The logits (agents, n, actions) of observations (agents, n, *shape) float32; binary64,
        differentiable in x where that is."""
        ...


def policy_of(model: nn.Module, layout: Layout) -> Policy:
    """The policies that a model describes.

    Raises:
        ConfigurationError: something of the model stays with an agent, or is not float32.
    """
    if layout.own or not layout.exact:
        raise ConfigurationError(
            "task: a policy is shared as a whole, in float32: leave out layers with buffers, such "
            "as BatchNorm, and parameters of an agent's own"
        )
    layers = [one for one in model.children() if not isinstance(one, nn.Flatten)]
    dense = type(model) is nn.Sequential and all(type(one) in _KNOWN for one in layers)
    biased = all(one.bias is not None for one in layers if isinstance(one, nn.Linear))
    if dense and biased and not layout.frozen and len(layers) == _named(layout, model):
        return DensePolicy(layers, layout)
    return AnyPolicy(model.eval(), layout)


def _named(layout: Layout, model: nn.Module) -> int:
    """How many layers a network has whose parameters all travel, each once and in order; no number
    of layers where they do not."""
    names = tuple(name for name, _ in model.named_parameters(remove_duplicate=False))
    plain = [one for one in model.children() if not isinstance(one, nn.Flatten)]
    return len(plain) if names == layout.names else -1


class DensePolicy:
    """A network of linear layers, written out."""

    def __init__(self, layers: list[nn.Module], layout: Layout) -> None:
        self._layers = layers
        self._layout = layout

    def acting(self, x: Tensor) -> Acting:
        """As `Policy.acting`."""
        views = [view.detach().numpy() for view in self._layout.views(x.double().cpu())]
        # (agents, inputs, outputs) and (agents, 1, outputs) a layer
        weights = [np.ascontiguousarray(view.transpose(0, 2, 1)) for view in views[0::2]]
        biases = [view[:, np.newaxis] for view in views[1::2]]

        def act(observations: NDArray[np.float32]) -> NDArray[np.float64]:
            h = observations.reshape(*observations.shape[:2], -1).astype(np.float64)
            places = count()
            for layer in self._layers:
                if isinstance(layer, nn.Linear):
                    place = next(places)
                    h = np.matmul(h, weights[place])
                    h += biases[place]
                elif isinstance(layer, nn.Tanh):
                    np.tanh(h, out=h)
                else:
                    np.maximum(h, 0.0, out=h)
            return h

        return act

    def logits(self, x: Tensor, observations: Tensor) -> Tensor:
        """As `Policy.logits`."""
        views = iter(self._layout.views(x.double()))
        h = observations.flatten(2).double()
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                weight, bias = next(views), next(views)  # (agents, outputs, inputs), (…, outputs)
                h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
            else:
                h = h.tanh() if isinstance(layer, nn.Tanh) else h.relu()
        return h


class AnyPolicy:
    """Any model of logits, in float32, each agent's under `vmap`."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout

    def acting(self, x: Tensor) -> Acting:
        """As `Policy.acting`."""
        x = x.detach().cpu()

        def act(observations: NDArray[np.float32]) -> NDArray[np.float64]:
            with torch.no_grad():
                logits: NDArray[np.float64] = self.logits(x, torch.from_numpy(observations)).numpy()
            return logits

        return act

    def logits(self, x: Tensor, observations: Tensor) -> Tensor:
        """As `Policy.logits`."""
        views = self._layout.views(x.float())

        def one(parameters: tuple[Tensor, ...], seen: Tensor) -> Tensor:
            named = dict(zip(self._layout.names, parameters, strict=True))
            found: Tensor = functional_call(self._model, named, (seen,))
            return found

        with faults_of("build_model"):
            logits = vmap(one)(views, observations)
        if logits.ndim != 3:
            raise ConfigurationError(
                f"task: its policy gave shape {tuple(logits.shape[1:])} for a batch of "
                f"{observations.shape[1]} observations; give logits (batch, actions)"
            )
        return logits.double()
