"""A training loop that Hugging Face `accelerate` drives, as many have one already.

Shows that it fits in: the optimiser goes through `Accelerator.prepare`; precision, accumulation
and clipping are the `Accelerator`'s. Model and loader do not: the model is on its device already,
and the loader is left before its end when a round is over, which `accelerate`, with one state for
the whole process, would not learn of.

    candor testbed --agents 4 --topology ring --task accelerate_loop:Digits \
        --partition dirichlet:1 --rounds 12 --local-steps 10 --run-dir runs/accelerate

Data: scikit-learn's digits of 8 x 8. Your own: change the constructor.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.digits import read_digits


class Digits:
    """Handwritten digits by two hidden layers with dropout."""

    def __init__(self) -> None:
        digits = read_digits()
        self.data = TensorDataset(digits.inputs, digits.labels)
        self.test = TensorDataset(digits.test_inputs, digits.test_labels)

    def build_model(self) -> nn.Module:
        """64 pixels in, ten classes out."""
        return nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many batches as the cluster file says; every second one makes a step."""
        from accelerate import Accelerator

        accelerator = context.keep(
            "accelerator",
            lambda: Accelerator(
                cpu=context.device.type == "cpu",
                mixed_precision="no",  # or "bf16"
                gradient_accumulation_steps=2,
            ),
        )
        optimizer = context.keep(
            "optimizer",
            lambda: accelerator.prepare(torch.optim.AdamW(model.parameters(), lr=1e-2)),
        )
        labels = self.data.tensors[1].numpy()
        mine = Subset(self.data, context.shard.select(labels, context.seed).tolist())
        loader = DataLoader(mine, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for x, y in context.batches(loader):
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    logits = model(x.to(context.device))
                loss = nn.functional.cross_entropy(logits, y.to(context.device))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> float:
        """The share of test images classified correctly."""
        device = next(model.parameters()).device
        x, y = self.test.tensors
        return float((model(x.to(device)).argmax(1).cpu() == y).float().mean())
