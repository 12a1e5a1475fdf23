"""Ways to get a task wrong, each alone: what is not said here is as in `Sound` or `SoundLoop`."""

import copy
import dataclasses
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

G = torch.Generator().manual_seed(7)
X = torch.randn(240, 6, generator=G)
Y = (X @ torch.randn(6, 3, generator=G)).argmax(1)


class Sound:
    """Three classes of points."""

    def build_model(self) -> Any:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def load_data(self, shard, seed):
        mine = torch.from_numpy(shard.select(Y[:160].numpy(), seed))
        return X[mine], Y[mine]

    def loss(self, model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    def evaluate(self, model) -> Any:
        return (model(X[160:]).argmax(1) == Y[160:]).float().mean().item()


class SoundLoop:
    """The same by a loop of its own, with Adam."""

    build_model = Sound.build_model
    evaluate = Sound.evaluate

    def train(self, model, context):
        loader = context.keep("loader", lambda: self.loader(context))
        adam = context.keep("adam", lambda: torch.optim.Adam(model.parameters(), 0.01))
        losses = []
        for x, y in context.batches(loader):
            loss = F.cross_entropy(model(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def loader(self, context) -> Any:
        data = TensorDataset(*Sound().load_data(context.shard, context.seed))
        return DataLoader(data, context.batch_size, shuffle=True, drop_last=True)


class OneCycle(SoundLoop):
    """A schedule that raises where it is asked for more rounds than it was told of."""

    def train(self, model, context):
        sgd = context.keep("sgd", lambda: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        cycle = context.keep(
            "cycle",
            lambda: torch.optim.lr_scheduler.OneCycleLR(sgd, 0.3, total_steps=context.rounds),
        )
        loader = context.keep("loader", lambda: self.loader(context))
        losses = []
        for x, y in context.batches(loader):
            loss = F.cross_entropy(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        cycle.step()
        return sum(losses) / len(losses)


# --- refused by every command ---------------------------------------------------------------------


class NoEvaluate:
    build_model, load_data, loss = Sound.build_model, Sound.load_data, Sound.loss


class OtherGenerator(Sound):
    def build_model(self):
        model = super().build_model()
        model[0].weight.data = torch.from_numpy(np.random.default_rng().normal(size=(8, 6))).float()
        return model


class OneModel(Sound):
    def __init__(self):
        torch.manual_seed(3)
        self.model = Sound.build_model(self)

    def build_model(self):
        return self.model


class OneBackbone(Sound):
    def __init__(self):
        torch.manual_seed(3)
        self.backbone = nn.Linear(6, 8)

    def build_model(self):
        return nn.Sequential(self.backbone, nn.Tanh(), nn.Linear(8, 3))


class AllFrozen(Sound):
    def build_model(self):
        return super().build_model().requires_grad_(False)


class NoSuchShared(Sound):
    shared: ClassVar = ["lora_*"]


class NoBuffers(Sound):
    buffers = "shared"


class LabelsFromOne(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return x, y + 1


class WrongWidth(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return x[:, :5], y


class DoubleData(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return x.double(), y


class EmptyShard(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return (x[:0], y[:0]) if shard.index == 2 else (x, y)


class NaNInOne(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        x[3, 2] = math.nan if shard.index == 1 else 0.0
        return x, y


class UnequalShapes(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return (x[:, :5] if shard.index == 3 else x), y


class MetaData(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return x.to("meta"), y


class Generated(Sound):
    def load_data(self, shard, seed):
        yield from zip(*super().load_data(shard, seed), strict=True)


class Listed(Sound):
    def load_data(self, shard, seed):
        return [tensor.tolist() for tensor in super().load_data(shard, seed)]


class MissingFile(Sound):
    def load_data(self, shard, seed):
        return torch.load(Path("no-such-folder") / f"{shard.index}.pt", weights_only=True)


class Detached(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch).detach()


class LossOfEach(Sound):
    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class NumberLoss(Sound):
    def loss(self, model, batch):
        return 0.5


class KeptGraph(Sound):
    """A tensor computed from parameters, kept for the next step."""

    def loss(self, model, batch):
        if not hasattr(model, "penalty"):
            model.penalty = (model[0].weight ** 2).sum()
        return super().loss(model, batch) + model.penalty


class TwoMetrics(Sound):
    def evaluate(self, model):
        return {"top1": 0.5, "top5": 0.9}


class Unnamed(Sound):
    def evaluate(self, model):
        return 37.2


class MetricFails(Sound):
    @property
    def metric(self):
        return {}["best"]


class NoNumber(Sound):
    def evaluate(self, model):
        return "good"


class EvaluateSteps(Sound):
    def evaluate(self, model):
        self.loss(model, (X, Y)).backward()
        return super().evaluate(model)


class EvaluatePrunes(Sound):
    def evaluate(self, model):
        del model[2]
        return 0.5


class OneSample(Sound):
    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


class Lazy(Sound):
    def build_model(self):
        return nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))


class Meta(Sound):
    def build_model(self):
        return nn.Linear(6, 3, device="meta")


class SparseParameter(Sound):
    def build_model(self):
        model = nn.Linear(6, 3)
        model.weight = nn.Parameter(model.weight.data.to_sparse())
        return model


class Complex(Sound):
    def build_model(self):
        model = nn.Linear(6, 3)
        model.codes = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        return model


class ViewOfAnother(Sound):
    def build_model(self):
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        model[1].weight = nn.Parameter(model[0].weight.data[:3])
        return model


class Expanded(Sound):
    def build_model(self):
        model = nn.Linear(6, 3)
        model.bias = nn.Parameter(torch.zeros(1).expand(3))
        return model


class Uninitialised(Sound):
    def build_model(self):
        model = super().build_model()
        model[0].weight.data.fill_(math.nan)
        return model


class TrainOfItsOwn(Sound):
    def build_model(self):
        class Net(nn.Sequential):
            def train(self):
                return 1

        return Net(nn.Linear(6, 3))


class StateOfItsOwn(Sound):
    def build_model(self):
        class Net(nn.Sequential):
            def state_dict(self, *arguments, **named):
                raise RuntimeError("nothing here")

        return Net(nn.Linear(6, 3))


class NoModule(Sound):
    def build_model(self):
        return lambda x: x


class Exits(Sound):
    def load_data(self, shard, seed):
        raise SystemExit(0)


class TakesThree(Sound):
    def loss(self, model, x, y):
        return F.cross_entropy(model(x), y)


class TrainFails(SoundLoop):
    def train(self, model, context):
        return {}["loss"]


class TrainGivesText(SoundLoop):
    def train(self, model, context):
        super().train(model, context)
        return "0.3 or so"


class TrainRebuilds(SoundLoop):
    def train(self, model, context):
        super().train(model, context)
        model[2] = nn.Identity()


class TrainReshapes(SoundLoop):
    def train(self, model, context):
        super().train(model, context)
        model[2] = nn.Linear(8, 4)


class TrainMoves(SoundLoop):
    def train(self, model, context):
        super().train(model, context)
        model.to("meta")


class SavesObjects(SoundLoop):
    def train(self, model, context):
        context.saved["history"] = [Sound()]
        return super().train(model, context)


class TooFewForABatch(SoundLoop):
    def loader(self, context):
        data = TensorDataset(*(t[:4] for t in Sound().load_data(context.shard, context.seed)))
        return DataLoader(data, context.batch_size, drop_last=True)


class NoDataRoot(SoundLoop):
    def prepare(self, context):
        Path(context.data_root)


class OptimiserMisspelt(SoundLoop):
    def train(self, model, context):
        torch.optim.SGD(model.parameters(), lr=0.1, momentumm=0.9)


class MissingOnThisHost(SoundLoop):
    def prepare(self, context):
        raise FileNotFoundError(2, "No such file", f"{context.agent}.csv")


# --- errors of training ---------------------------------------------------------------------------


class NaNGradient(Sound):
    """Finite losses, whose gradient is not: that of a root at 0."""

    def loss(self, model, batch):
        return super().loss(model, batch) + (model[0].weight * 0).pow(2).sum().sqrt()


class NaNLoss(SoundLoop):
    def train(self, model, context):
        super().train(model, context)
        return math.nan


class TrainsACopy(SoundLoop):
    def train(self, model, context):
        return super().train(copy.deepcopy(model), context)


class Replaces(SoundLoop):
    def train(self, model, context):
        told = super().train(model, context)
        model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        return told


class Frozen(SoundLoop):
    def build_model(self):
        model = super().build_model()
        model[0].requires_grad_(False)
        return model


class Thaws(Frozen):
    def train(self, model, context):
        model[0].requires_grad_(True)
        try:
            return super().train(model, context)
        finally:
            model[0].requires_grad_(False)


class EvaluateTrains(Sound):
    buffers = "averaged"

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def evaluate(self, model):
        model.train()
        return super().evaluate(model)


class Large(Sound):
    """Values that float16 cannot hold."""

    def build_model(self):
        model = super().build_model()
        model[2].bias.data.fill_(1e5)
        return model


class UnequalTypes(Sound):
    def build_model(self):
        return super().build_model().double()

    def loss(self, model, batch):
        return super().loss(model, (batch[0].double(), batch[1]))

    def evaluate(self, model):
        return 0.5

    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return (x.double() if shard.index == 3 else x), y


# --- warnings and notes ---------------------------------------------------------------------------


class RmseUp(Sound):
    metric = "rmse"

    def evaluate(self, model):
        return 37.2


class AccuracyDown(Sound):
    metric = "accuracy"
    higher_is_better = False


class Misspelt(Sound):
    higher_is_beter = False


class Hidden(Sound):
    """Layers in a plain list."""

    def build_model(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = [nn.Linear(6, 6)]
                self.last = nn.Linear(6, 3)

            def forward(self, x):
                return self.last(self.layers[0](x))

        return Net()


class Cached(Sound):
    """A module that keeps what it computed from its parameters."""

    def build_model(self):
        model = nn.Linear(6, 3)
        model.norm = model.weight.norm()
        return model


class OneLabel(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return x, y * 0


class LacksAClass(Sound):
    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        kept = y != 2 if shard.index == 1 else y >= 0
        return x[kept], y[kept]


class Unused(Sound):
    def build_model(self):
        model = super().build_model()
        model[1].spare = nn.Linear(2, 2)
        return model


class AnewEachRound(SoundLoop):
    def train(self, model, context):
        context.kept.pop("adam", None)
        return super().train(model, context)


class AtRandom(Sound):
    def evaluate(self, model):
        return torch.rand(()).item()


class Slow(SoundLoop):
    def train(self, model, context):
        time.sleep(0.02)
        return super().train(model, context)


class NaNMetric(Sound):
    def evaluate(self, model):
        return math.nan


class SameForAll(Sound):
    def load_data(self, shard, seed):
        return X[:160], Y[:160]


class AsksNobody(SoundLoop):
    def loader(self, context):
        return DataLoader(TensorDataset(X, Y), context.batch_size)


class AsLongAsItLikes(SoundLoop):
    def train(self, model, context):
        data = Sound().load_data(context.shard, context.seed)
        adam = context.keep("adam", lambda: torch.optim.Adam(model.parameters()))
        loss = Sound().loss(model, data)
        adam.zero_grad()
        loss.backward()
        adam.step()


class Both(SoundLoop):
    loss = Sound.loss


class Statistics(OneSample):
    """BatchNorm with its statistics where they are."""


class Half(SoundLoop):
    def build_model(self):
        return super().build_model().half()

    def train(self, model, context):
        x, y = Sound().load_data(context.shard, context.seed)
        for xs, ys in context.batches([(x.half(), y)]):
            loss = F.cross_entropy(model(xs), ys)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
        return loss.item()

    def evaluate(self, model):
        return (model(X[160:].half()).argmax(1) == Y[160:]).float().mean().item()


# --- odd, and sound -------------------------------------------------------------------------------


class Lock(Sound):
    def build_model(self):
        model = super().build_model()
        model.lock = threading.Lock()
        return model


class OpenFile(Sound):
    """Open files and a generator, none of which can be copied or pickled."""

    def __init__(self):
        self.source = sys.__stdout__

    def build_model(self):
        model = super().build_model()
        model.source, model.numbers = sys.__stdout__, (number for number in range(3))
        return model


class KeptIterator(SoundLoop):
    """A DataLoader's iterator that goes on from round to round."""

    def __init__(self):
        self.running = None

    def train(self, model, context):
        self.running = self.running or iter(self.loader(context))
        batches = iter(lambda: next(self.running, None) or next(self.restart(context)), 0)
        context.kept.setdefault("loader", batches)
        return super().train(model, context)

    def restart(self, context):
        self.running = iter(self.loader(context))
        return self.running


class MeasuresItsOwn(SoundLoop):
    def evaluate_local(self, model, context):
        x, y = Sound().load_data(context.shard, context.seed)
        return {"accuracy": (model(x).argmax(1) == y).float().mean().item(), "size": len(y)}


class CopiesItsContext(SoundLoop):
    def train(self, model, context):
        return super().train(model, dataclasses.replace(context, batch_size=4))


class GivesItsLoss(SoundLoop):
    """The loss as it is, a tensor of the graph."""

    def train(self, model, context):
        super().train(model, context)
        return F.cross_entropy(model(X[:8]), Y[:8])


class Tied(Sound):
    def build_model(self):
        model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
        model[1].weight = model[0].weight
        return model


class FlatMemory(Sound):
    """Parameters that lie one behind the other in one vector."""

    def build_model(self):
        model = nn.Linear(6, 3)
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        model.weight.data, model.bias.data = flat[:18].view(3, 6), flat[18:]
        return model


class WeightNormed(Sound):
    def build_model(self):
        return nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))


class Recurrent(Sound):
    def build_model(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.last = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

            def forward(self, x):
                return self.last(self.lstm(x.unsqueeze(-1))[0][:, -1])

        return Net()


class FromAGraph(Sound):
    """Data that another network made, which is not learned."""

    def load_data(self, shard, seed):
        x, y = super().load_data(shard, seed)
        return nn.Linear(6, 6)(x), y


class Workers(SoundLoop):
    def loader(self, context):
        whole = super().loader(context)
        return DataLoader(whole.dataset, context.batch_size, drop_last=True, num_workers=1)


class Prints(Sound):
    def build_model(self):
        print("hello")
        return super().build_model()


class Hooked(Sound):
    def build_model(self):
        model = super().build_model()
        model[1].register_forward_hook(lambda _module, _given, out: out * 1.0)
        return model
