"""Every host trains on a file of its own; nothing is dealt out, and no row leaves its host.

Shows a data root with a file for each host, no `--partition`, and `prepare`: where a file is
missing, one line says so before anything begins. The first command makes files to try it with.

    python own_files.py runs/hospitals
    candor testbed --agents 4 --topology ring --task own_files:Hospitals \
        --data-root runs/hospitals --rounds 15 --local-steps 10 --run-dir runs/own

In the data root lie `test.csv`, the same on all hosts, and the host's own rows: `train.csv`, or
`ID.csv` where hosts share a folder, as here (`a0.csv` is of the agent a0). A file has a line of
headings, then one row a patient: eight measurements and, last, 1 for ill or 0.
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from candor.agent.tasks.context import TrainingContext

FEATURES: Final = 8


class Hospitals:
    """Ill or not, by eight measurements."""

    metric = "auc"

    def __init__(self, data_root: Path | None = None) -> None:
        if data_root is None:
            raise ValueError("say where the files lie, with --data-root DIR")
        self.folder = data_root
        self.test = read_csv(data_root / "test.csv")

    def build_model(self) -> nn.Module:
        """The logit of being ill."""
        return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))

    def prepare(self, context: TrainingContext) -> None:
        """Before the run: whoever lacks a file is told now, not in the first round."""
        context.keep("data", lambda: self.parts(context))

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says, on four fifths of the host's own rows."""
        mine, _ = context.keep("data", lambda: self.parts(context))
        optimizer = context.keep("optimizer", lambda: torch.optim.Adam(model.parameters(), lr=5e-3))
        loader = DataLoader(mine, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for x, y in context.batches(loader):
            logits = model(x.to(context.device))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, y.to(context.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On the rows that all hosts hold."""
        return judged(model, self.test)

    def evaluate_local(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """On every fifth row of this host, which it never trains on."""
        _, held_out = context.keep("data", lambda: self.parts(context))
        return judged(model, held_out)

    def parts(self, context: TrainingContext) -> tuple[TensorDataset, TensorDataset]:
        """What this host trains on, and what it holds out."""
        read = [read_csv(path).tensors for path in self.files(context)]
        x, y = (torch.cat(columns) for columns in zip(*read, strict=True))
        held_out = torch.arange(len(x)) % 5 == 0
        return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])

    def files(self, context: TrainingContext) -> list[Path]:
        """The host's own; all of them for the one model on all data, for comparison."""
        if context.shard.count == 1:
            return sorted(set(self.folder.glob("*.csv")) - {self.folder / "test.csv"})
        names = [f"{context.agent}.csv", "train.csv"]
        found = [self.folder / name for name in names if (self.folder / name).exists()]
        if not found:
            raise FileNotFoundError(f"{self.folder}: there is neither {' nor '.join(names)}")
        return found[:1]


def read_csv(path: Path) -> TensorDataset:
    """Measurements (rows, FEATURES) and who is ill (rows,), 1 or 0; complains of what is wrong."""
    with path.open(newline="") as file:
        table = np.loadtxt(file, np.float32, delimiter=",", skiprows=1, ndmin=2)
    if len(table) == 0 or table.shape[1] != FEATURES + 1 or not set(table[:, -1]) <= {0.0, 1.0}:
        raise ValueError(f"{path}: rows must have {FEATURES} measurements, then 1 or 0")
    rows = torch.from_numpy(table)
    return TensorDataset(rows[:, :-1], rows[:, -1])


def judged(model: nn.Module, data: TensorDataset) -> dict[str, float]:
    """The area under the ROC curve, nan where all are alike, and the share judged rightly."""
    x, y = data.tensors
    logits = model(x.to(next(model.parameters()).device)).cpu()
    ill, well = logits[y == 1], logits[y == 0]
    auc = (ill[:, None] > well).float().mean().item()
    return {"auc": auc, "accuracy": ((logits > 0) == (y == 1)).float().mean().item()}


def make_files(folder: Path, hosts: int = 4) -> None:
    """Patients of hospitals that see other kinds of them, and a test file of all kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    weights = rng.normal(size=FEATURES)
    kinds = rng.normal(size=(hosts, FEATURES))
    rows = {f"a{host}": rng.normal(size=(150, FEATURES)) + kinds[host] for host in range(hosts)}
    rows["test"] = rng.normal(size=(400, FEATURES)) + kinds[rng.integers(hosts, size=400)]
    for name, x in rows.items():
        y = x @ weights + rng.normal(size=len(x)) > 0
        header = ",".join(f"m{number}" for number in range(FEATURES)) + ",ill"
        table = np.column_stack([x, y])
        np.savetxt(folder / f"{name}.csv", table, "%.4f", ",", header=header, comments="")


if __name__ == "__main__":
    make_files(Path(sys.argv[1]))
