"""Training loops of a user's own, for daemons: digits, with an optimiser that is kept."""

import os
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from candor.agent.tasks import resolve_task
from candor.agent.tasks.context import TrainingContext

DIGITS = resolve_task("digits")


class Adam:
    """Adam with a cosine schedule over shuffled batches."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        adam = context.keep("adam", lambda: torch.optim.Adam(model.parameters(), 0.01))
        cosine = context.keep(
            "cosine", lambda: torch.optim.lr_scheduler.CosineAnnealingLR(adam, context.rounds)
        )
        data = context.keep("data", lambda: TensorDataset(*DIGITS.load_data(context.shard, 0)))
        loader = DataLoader(data, 32, shuffle=True, drop_last=True, generator=context.generator)
        called, losses = context.parallel(model), []
        for x, y in context.batches(loader):
            loss = F.cross_entropy(called(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        cosine.step()
        context.saved["rounds"] = [*context.saved.get("rounds", []), context.round]
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> float:
        return DIGITS.evaluate(model)


class Fails(Adam):
    """Training fails in the rounds that $FAIL_IN names."""

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        if str(context.round) in os.environ.get("FAIL_IN", "").split(","):
            raise RuntimeError("the images are gone")
        return super().train(model, context)


class Kept(Fails):
    """What is kept and never saved counts as well: how many rounds there were. A layer's running
    statistics stay with each agent."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 10)
        )

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        seen = context.keep("seen", lambda: [0])
        seen[0] += 1
        for group in context.kept["adam"].param_groups if "adam" in context.kept else ():
            group["weight_decay"] = 0.01 * seen[0]
        return super().train(model, context)


class Sharded(Adam):
    """The model lies in parts on the processes that train it (FSDP)."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        if torch.distributed.is_initialized():
            from torch.distributed.fsdp import fully_shard

            fully_shard(model)
        return model


class Slow(Adam):
    """Rounds that leave time to be killed in."""

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        time.sleep(0.4)
        return super().train(model, context)
