"""Regression with several metrics: root mean squared error counts, and less of it is better.

Shows `metric` and `higher_is_better`, metrics by name, dropout, and `evaluate_local`: each host
also measures on a fifth of its own rows, which it never trains on.

    candor testbed --agents 4 --topology ring --task regression:Diabetes --partition iid \
        --rounds 12 --local-steps 5 --run-dir runs/regression

Data: how diabetes progressed in 442 patients, by ten measurements, as scikit-learn brings them.
Your own: a file `diabetes.csv` in the data root (`--data-root DIR`) of each host, with a line of
headings, one row a patient and what is predicted in the last column.
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from candor.agent.tasks.context import TrainingContext

FEATURES: Final = 10
TEST_ROWS: Final = 110  # of the 442 that all can see
# What standardises must be the same everywhere: numbers of the cluster's, no host's own mean.
FEATURE_SCALE: Final = 1 / 0.0476
TARGET_MEAN: Final = 152.0
TARGET_SCALE: Final = 77.0


class Diabetes:
    """A small network; AdamW, whose moments stay with the host, on standardised numbers."""

    metric = "rmse"
    higher_is_better = False

    def __init__(self, data_root: Path | None = None) -> None:
        self.own = None if data_root is None else data_root / "diabetes.csv"
        self.test, self.rows = torch.split(bundled_rows(), [TEST_ROWS, 442 - TEST_ROWS])

    def build_model(self) -> nn.Module:
        """Ten numbers in, one out."""
        return nn.Sequential(
            nn.Linear(FEATURES, 32),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(32, 16),
            nn.SiLU(),
            nn.Linear(16, 1),
        )

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says, on the host's own rows."""
        data, _ = context.keep("data", lambda: self.parts(context))
        optimizer = context.keep(
            "optimizer", lambda: torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        )
        loader = DataLoader(data, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for x, y in context.batches(loader):
            loss = nn.functional.mse_loss(model(x.to(context.device)), y.to(context.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """On the patients that all can see."""
        return errors(model, standardised(self.test))

    def evaluate_local(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """The same on the rows that this host held out."""
        _, held_out = context.keep("data", lambda: self.parts(context))
        return errors(model, held_out)

    def parts(self, context: TrainingContext) -> tuple[TensorDataset, TensorDataset]:
        """What this host trains on, and every fifth row, which it only measures on."""
        if self.own is not None and self.own.exists():
            rows = read_csv(self.own)
        else:
            # Rows that all could see, dealt out; `dirichlet` goes by who got worse quickly.
            worse = (self.rows[:, -1] > TARGET_MEAN).numpy()
            rows = self.rows[torch.from_numpy(context.shard.select(worse, context.seed))]
        held_out = torch.arange(len(rows)) % 5 == 0
        return standardised(rows[~held_out]), standardised(rows[held_out])


def bundled_rows() -> Tensor:
    """scikit-learn's table in a fixed order: ten features and the target, (442, 11)."""
    from sklearn.datasets import load_diabetes

    table = np.column_stack(load_diabetes(return_X_y=True))
    return torch.from_numpy(np.random.default_rng(0).permutation(table)).float()


def read_csv(path: Path) -> Tensor:
    """The rows below a line of headings, (rows, FEATURES + 1)."""
    with path.open(newline="") as file:
        rows = torch.tensor([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    if rows.ndim != 2 or rows.shape[1] != FEATURES + 1:
        raise ValueError(f"{path}: each row must have {FEATURES} features and a target")
    return rows


def standardised(rows: Tensor) -> TensorDataset:
    """Features and targets of a spread of about one."""
    return TensorDataset(rows[:, :-1] * FEATURE_SCALE, (rows[:, -1:] - TARGET_MEAN) / TARGET_SCALE)


def errors(model: nn.Module, data: TensorDataset) -> dict[str, float]:
    """Root mean squared error in the target's own unit, and the share of variance explained."""
    device = next(model.parameters()).device
    x, y = data.tensors
    squares = (model(x.to(device)).cpu() - y).square().mean().item()
    return {"rmse": TARGET_SCALE * squares**0.5, "r2": 1 - squares / y.var(correction=0).item()}
