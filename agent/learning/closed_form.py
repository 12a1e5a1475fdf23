"""Gradients written out for stacks of linear layers under cross-entropy, all rows at once.

Logistic regression and perceptrons are what a simulation of thousands of agents mostly trains. For
them autograd under `vmap` costs more than the arithmetic: it takes the logits apart, keeps and
copies gradients transposed, and joins them. Written out (Rumelhart, Hinton & Williams 1986), they
go straight to where they belong. Rounding aside it is the same gradient; any other model or loss
is the learner's own business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.classification import Classification, as_numbers

_SMALL: Final = 2**18  # multiplications; OpenBLAS works on more than one thread above
_FEW: Final = 16  # outputs; of fewer numpy's products are one and a half to three times as fast


@dataclass(frozen=True, slots=True)
class Stack:
    """Linear layers with biases; `tanh` says of each but the last whether tanh follows, or ReLU."""

    tanh: tuple[bool, ...]

    def gradient(
        self, parameters: Sequence[Tensor], batch: Batch, gradients: Sequence[Tensor]
    ) -> Tensor:
        """Write each row's gradients; its losses (rows,).

        Args:
            parameters: weight (rows, out, in) and bias (rows, out) of each layer in turn.
            batch: inputs (rows, batch, features) and classes (rows, batch).
            gradients: where they go, shaped as the parameters.
        """
        weights, biases = parameters[::2], parameters[1::2]
        inputs = [as_numbers(batch[0])]
        for tanh, weight, bias in zip(self.tanh, weights, biases, strict=False):
            z = _linear(inputs[-1], weight, bias)
            inputs.append(z.tanh_() if tanh else z.relu_())
        delta, losses = _cross_entropy(_linear(inputs[-1], weights[-1], biases[-1]), batch[1])
        for layer in reversed(range(len(weights))):
            _products(delta.transpose(1, 2), inputs[layer], out=gradients[2 * layer])
            torch.sum(delta, dim=1, out=gradients[2 * layer + 1])
            if layer:
                into = torch.empty_like(inputs[layer])  # (rows, batch, in)
                _products(delta, weights[layer], out=into)
                delta = _through(self.tanh[layer - 1], into, inputs[layer])
        return losses


def stack_of(task: Task, model: nn.Module) -> Stack | None:
    """The task's model as a stack, if it is one and its loss is that of `Classification`."""
    if getattr(task.loss, "__func__", None) is not Classification.loss:
        return None
    layers = list(model) if type(model) is nn.Sequential else [model]
    linear, between = layers[::2], layers[1::2]
    if len(linear) != len(between) + 1:
        return None
    if not all(type(layer) is nn.Linear and layer.bias is not None for layer in linear):
        return None
    if not all(type(layer) in (nn.ReLU, nn.Tanh) for layer in between):
        return None
    if len(list(model.parameters())) != 2 * len(linear):  # a layer that is there twice
        return None
    return Stack(tuple(type(layer) is nn.Tanh for layer in between))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.device.type == "cpu" and weight.shape[1] < _FEW:
        z = x.new_empty((*x.shape[:2], weight.shape[1]))
        _products(x, weight.transpose(1, 2), out=z)
        return z.add_(bias.unsqueeze(1))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))  # (rows, batch, out)


def _products(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a @ b, row by row, into `out`, which may have gaps between rows.

    On a processor torch takes gaps for a reason to call its library anew for each row: four times
    as long as numpy for small matrices. Those that numpy's library would start threads for are
    torch's.
    """
    if out.device.type == "cpu" and a[0].numel() * b.shape[2] <= _SMALL:
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged row needs no warning here
            np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    else:
        torch.bmm(a, b, out=out)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each row's mean loss by its logits, (softmax - 1[y]) / batch; then the loss.

    The logits are overwritten; on a processor torch's softmax of few classes takes far longer.
    """
    chosen = labels.unsqueeze(2)  # (rows, batch, 1)
    logits -= logits.amax(dim=2, keepdim=True)
    told = logits.gather(2, chosen)
    powers = logits.exp_()
    total = powers.sum(dim=2, keepdim=True)
    losses = (total.log() - told).mean(dim=(1, 2))
    delta = powers.div_(total)
    delta.scatter_add_(2, chosen, torch.full_like(told, -1.0))
    return delta.div_(labels.shape[1]), losses


def _through(tanh: bool, delta: Tensor, output: Tensor) -> Tensor:
    """The gradient by what went into an activation, from that by its output."""
    if tanh:
        return delta.addcmul_(delta, output.square(), value=-1)
    passed: Tensor = torch.ops.aten.threshold_backward.grad_input(
        delta, output, 0, grad_input=delta
    )
    return passed
