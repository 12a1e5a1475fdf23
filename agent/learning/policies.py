"""The policies of many agents: logits of actions from observations, and gradients of what was done.

Two uses: choosing actions, for all agents at once and step by step; and the logarithms of the
probabilities of all that one agent did, with their gradient. A network of linear layers with tanh
or ReLU is written out in numpy, which is called in a fraction of torch's time; any other model
runs under torch. An agent's arrays have shapes that follow from its own episodes, so that its
gradient is the same to the last bit alone and among many.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from candor.agent.learning.layout import Layout
from candor.agent.tasks.checked import faults_of
from candor.topologies.specs.specs import ConfigurationError

Floats: TypeAlias = NDArray[np.floating[Any]]
Acting: TypeAlias = Callable[[NDArray[np.float32]], Floats]
"""From observations (agents, episodes, *shape) to logits (agents, episodes, actions), which the
next call writes over."""
Scored: TypeAlias = tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], NDArray[np.float64]]]
"""log pi(a | s) of what one agent did, (n,), and what makes of gains (n,) the gradient (dim,) of
their weighted sum."""

_KNOWN: Final = (nn.Linear, nn.Tanh, nn.ReLU)


class Policy(Protocol):
    """Policies whose parameters are the rows of x (agents, dim)."""

    def acting(self, x: Tensor) -> Acting:
        """What chooses actions by the policies x (agents, dim)."""
        ...

    def scored(
        self, x: Tensor, observations: NDArray[np.float32], actions: NDArray[np.int64]
    ) -> Scored:
        """What one agent of policy x (dim,) did, (n,), where it saw these, (n, *shape)."""
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
    linear = [one for one in layers if isinstance(one, nn.Linear)]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    plain = (
        type(model) is nn.Sequential
        and all(type(one) in _KNOWN for one in layers)
        and all(one.bias is not None for one in linear)
        and tuple(names) == layout.names  # each once, and none frozen
    )
    return DensePolicy(layers, layout) if plain else AnyPolicy(model.eval(), layout)


class DensePolicy:
    """A network of linear layers, written out; as exact as x is: in float32, or float64."""

    def __init__(self, layers: list[nn.Module], layout: Layout) -> None:
        self._layers = layers
        self._layout = layout

    def acting(self, x: Tensor) -> Acting:
        """As `Policy.acting`."""
        views = [view.detach().numpy() for view in self._layout.views(x.cpu())]
        # (agents, inputs, outputs) and (agents, 1, outputs) a layer
        weights = [np.ascontiguousarray(view.transpose(0, 2, 1)) for view in views[0::2]]
        biases = [view[:, np.newaxis] for view in views[1::2]]
        held: list[Floats] = []

        def act(observations: NDArray[np.float32]) -> Floats:
            agents, episodes = observations.shape[:2]
            if not held:  # a place for each layer's outputs
                held.extend(
                    np.empty((agents, episodes, weight.shape[2]), weight.dtype)
                    for weight in weights
                )
            h: Floats = observations.reshape(agents, episodes, -1)
            place = 0
            for layer in self._layers:
                if isinstance(layer, nn.Linear):
                    h = np.matmul(h, weights[place], out=held[place])
                    h += biases[place]
                    place += 1
                elif isinstance(layer, nn.Tanh):
                    np.tanh(h, out=h)
                else:
                    np.maximum(h, 0.0, out=h)
            return h

        return act

    def scored(
        self, x: Tensor, observations: NDArray[np.float32], actions: NDArray[np.int64]
    ) -> Scored:
        """As `Policy.scored`: forward, and back from the gradient of log softmax."""
        views = [view[0].detach().numpy() for view in self._layout.views(x.cpu().unsqueeze(0))]
        weights, biases = views[0::2], views[1::2]
        h = observations.reshape(len(actions), -1).astype(weights[0].dtype, copy=False)
        inputs: list[Floats] = []  # of each layer
        place = 0
        for layer in self._layers:
            inputs.append(h)
            if isinstance(layer, nn.Linear):
                h = h @ weights[place].T
                h += biases[place]
                place += 1
            else:
                h = np.tanh(h) if isinstance(layer, nn.Tanh) else np.maximum(h, 0.0)
        inputs.append(h)
        logs = _log_softmax(h)
        rows = np.arange(len(actions))

        def gradient(gains: NDArray[np.float64]) -> NDArray[np.float64]:
            weighted = gains.astype(h.dtype)[:, np.newaxis]
            back = np.exp(logs)
            back *= -weighted
            back[rows, actions] += weighted[:, 0]
            parts: list[NDArray[np.float64]] = []
            place = len(weights)
            for number in reversed(range(len(self._layers))):
                layer, before, after = self._layers[number], inputs[number], inputs[number + 1]
                if isinstance(layer, nn.Linear):
                    place -= 1
                    parts.append(back.sum(axis=0, dtype=np.float64))
                    parts.append((back.T @ before).astype(np.float64).ravel())
                    back = back @ weights[place] if number else back
                elif isinstance(layer, nn.Tanh):
                    back *= 1.0 - after * after
                else:
                    back *= after > 0.0
            return np.concatenate(parts[::-1])

        return logs[rows, actions].astype(np.float64), gradient


class AnyPolicy:
    """Any model of logits: `vmap` over agents where they act, plain autograd for the gradient."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout

    def acting(self, x: Tensor) -> Acting:
        """As `Policy.acting`."""
        views = self._layout.views(x.detach().cpu())

        def act(observations: NDArray[np.float32]) -> Floats:
            with torch.no_grad(), faults_of("build_model"):
                return vmap(self._logits)(views, torch.from_numpy(observations)).numpy()

        return act

    def scored(
        self, x: Tensor, observations: NDArray[np.float32], actions: NDArray[np.int64]
    ) -> Scored:
        """As `Policy.scored`."""
        row = x.detach().cpu().clone().requires_grad_()
        with torch.enable_grad(), faults_of("build_model"):
            views = tuple(view[0] for view in self._layout.views(row.unsqueeze(0)))
            logits = self._logits(views, torch.from_numpy(observations))
            chosen = torch.from_numpy(actions).unsqueeze(1)
            logs = torch.log_softmax(logits.double(), dim=1).gather(1, chosen)[:, 0]

        def gradient(gains: NDArray[np.float64]) -> NDArray[np.float64]:
            total = (logs * torch.from_numpy(gains)).sum()
            (found,) = torch.autograd.grad(total, row, retain_graph=True)
            return found.double().numpy()

        return logs.detach().numpy(), gradient

    def _logits(self, views: tuple[Tensor, ...], seen: Tensor) -> Tensor:
        named = dict(zip(self._layout.names, views, strict=True))
        found: Tensor = functional_call(self._model, named, (seen,))
        return found


def _log_softmax(logits: Floats) -> Floats:
    logs: Floats = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return logs
