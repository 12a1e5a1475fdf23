"""A residual network with BatchNorm and dropout on images, as torchvision has them, only smaller.

Shows what becomes of buffers: BatchNorm's running statistics stay with each host (`Local`, as in
FedBN; Li et al., 2021) or are averaged with the neighbours' as parameters are (`Averaged`).

    candor testbed --agents 4 --topology ring --task cnn_batchnorm:Local --partition dirichlet:1 \
        --rounds 10 --local-steps 8 --step-size 0.05 --evaluate-every 5 --run-dir runs/cnn

Data: scikit-learn's digits of 8 x 8. With the data root's `fashion-mnist/`, four gzipped idx files
under their usual names, those images of 28 x 28 in their place (`--rounds 40 --local-steps 20
--evaluate-every 20`). Your own: change `read_images`; a network of torchvision's goes into
`build_model`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from candor.agent.tasks.context import TrainingContext
from candor.agent.tasks.digits import read_digits
from candor.agent.tasks.files import read_idx


class Block(nn.Module):
    """Two convolutions and a way around them (He et al., 2016)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.around = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inside, height, width) to (batch, outside, height / stride, width / stride)."""
        return nn.functional.relu(self.convolutions(x) + self.around(x))


class Local:
    """Images by class; the statistics of BatchNorm are each host's own."""

    buffers = "local"

    def __init__(self, data_root: Path | None = None) -> None:
        self.x, self.y, test_x, test_y = read_images(data_root)
        self.test = TensorDataset(test_x, test_y)

    def build_model(self) -> nn.Module:
        """Three blocks, 73,000 parameters, whatever the size of the images."""
        return nn.Sequential(
            Block(1, 16, 1),
            Block(16, 32, 2),
            Block(32, 64, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64, 10),
        )

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says, or passes over the host's images."""
        optimizer = context.keep(
            "optimizer",
            lambda: torch.optim.SGD(
                model.parameters(), lr=context.step_size, momentum=0.9, weight_decay=5e-4
            ),
        )
        places = context.shard.select(self.y.numpy(), context.seed)
        data = Subset(TensorDataset(self.x, self.y), places.tolist())
        loader = DataLoader(data, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for x, y in context.batches(loader):
            logits = model(x.to(context.device))
            loss = nn.functional.cross_entropy(logits, y.to(context.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> float:
        """The share of test images classified correctly."""
        device = next(model.parameters()).device
        right = 0
        for x, y in DataLoader(self.test, 1000):
            right += int((model(x.to(device)).argmax(1).cpu() == y).sum())
        return right / len(self.test)


class Averaged(Local):
    """The statistics of BatchNorm are mixed with the neighbours', as the parameters are."""

    buffers = "averaged"


def read_images(data_root: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (samples, 1, height, width) of about unit spread, and classes; then the test set."""
    folder = None if data_root is None else data_root / "fashion-mnist"
    if folder is not None and folder.is_dir():
        return *idx_images(folder, "train"), *idx_images(folder, "t10k")
    digits = read_digits()
    return pictures(digits.inputs), digits.labels, pictures(digits.test_inputs), digits.test_labels


def pictures(rows: Tensor) -> Tensor:
    """Digits as images of about unit spread, (samples, 1, 8, 8)."""
    return (rows.reshape(-1, 1, 8, 8) - 0.305) / 0.376


def idx_images(folder: Path, which: str) -> tuple[Tensor, Tensor]:
    """One of the two sets of Fashion-MNIST."""
    images = read_idx(folder / f"{which}-images-idx3-ubyte.gz", dimensions=3)
    classes = read_idx(folder / f"{which}-labels-idx1-ubyte.gz", dimensions=1)
    return (torch.from_numpy(images)[:, None] / 255 - 0.286) / 0.353, torch.from_numpy(
        classes
    ).long()
