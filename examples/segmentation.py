"""Segmentation: which pixels are of a disc, by a small U-Net; what counts is the Dice coefficient.

Shows automatic mixed precision (bfloat16, by autocast), gradients accumulated over the parts of a
batch that fit into memory, a loss of one's own, and a folder of images.

    candor testbed --agents 4 --topology ring --task segmentation:Discs --partition iid \
        --rounds 10 --local-steps 4 --batch-size 8 --evaluate-every 5 --run-dir runs/discs

Data: made up, discs on a noisy ground, 32 x 32. Your own: in each host's data root (`--data-root
DIR`) grey pictures in `train/images/`, and in `train/masks/` one of the same name for each, white
where something is to be found; in `test/images/` and `test/masks/` those to measure on, the same
everywhere. PNG (takes Pillow) or numpy's .npy, all of one size, its sides divisible by 4.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from candor.agent.tasks.context import TrainingContext

SIDE: Final = 32
SAMPLES: Final = 400
TESTS: Final = 60
AT_ONCE: Final = 4  # images of a batch that fit into memory together


class UNet(nn.Module):
    """Down twice and up again, with what was seen before on the side (Ronneberger et al., 2015)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolutions(1, width), convolutions(width, 2 * width)])
        self.bottom = convolutions(2 * width, 4 * width)
        self.up = nn.ModuleList(
            [convolutions(6 * width, 2 * width), convolutions(3 * width, width)]
        )
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, 1, height, width) to logits of the same shape."""
        seen = []
        for block in self.down:
            seen.append(x := block(x))
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for block in self.up:
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2), seen.pop()], 1))
        return self.out(x)


def convolutions(inside: int, outside: int) -> nn.Module:
    """Two of 3 x 3; GroupNorm has no buffers."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.GroupNorm(4, outside),
        nn.ReLU(),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.GroupNorm(4, outside),
        nn.ReLU(),
    )


class Discs:
    """Pixels in discs against the ground."""

    metric = "dice"

    def __init__(self, data_root: Path | None = None) -> None:
        self.own = data_root if data_root is not None and (data_root / "test").is_dir() else None
        tests = range(SAMPLES, SAMPLES + TESTS)
        self.test = made_up(tests) if self.own is None else folder_of(self.own / "test")

    def build_model(self) -> nn.Module:
        """Of 30,000 parameters."""
        return UNet()

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says; gradients are accumulated over each batch."""
        data = context.keep("data", lambda: self.images(context))
        optimizer = context.keep("optimizer", lambda: torch.optim.Adam(model.parameters(), lr=1e-2))
        loader = DataLoader(data, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for images, masks in context.batches(loader):
            optimizer.zero_grad()
            for some, theirs in zip(images.split(AT_ONCE), masks.split(AT_ONCE), strict=True):
                with torch.autocast(context.device.type, torch.bfloat16):
                    logits = model(some.to(context.device))
                loss = dice_loss(logits.float(), theirs.to(context.device))
                (loss * len(some) / len(images)).backward()
                losses.append(loss.item())
            optimizer.step()
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Dice of all test images, and the share of pixels that are right."""
        images, masks = self.test.tensors
        found, masks = model(images.to(next(model.parameters()).device)).cpu() > 0, masks > 0.5
        both = (found & masks).sum().item()
        dice = 2 * both / max(1, found.sum().item() + masks.sum().item())
        return {"dice": dice, "pixels": (found == masks).float().mean().item()}

    def images(self, context: TrainingContext) -> TensorDataset:
        """What this host trains on."""
        if self.own is not None:
            return folder_of(self.own / "train")
        return made_up(context.shard.select(np.zeros(SAMPLES), context.seed))


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One less the soft Dice coefficient (Milletari et al., 2016)."""
    likely = logits.sigmoid()
    return 1 - 2 * (likely * masks).sum() / (likely.sum() + masks.sum() + 1)


def made_up(places: Any) -> TensorDataset:
    """Pictures of these numbers: one to three discs, hardly brighter than the noise."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, masks = [], []
    for place in places:
        rng = np.random.default_rng([7, place])
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(rng.integers(1, 4)):
            y, x, radius = *rng.uniform(6, SIDE - 6, 2), rng.uniform(3, 7)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        images.append(mask + rng.normal(scale=0.7, size=mask.shape))
        masks.append(mask)
    return TensorDataset(stacked(images), stacked(masks))


def folder_of(folder: Path) -> TensorDataset:
    """The pictures in `images` there, with those of the same names in `masks`."""
    files = sorted((folder / "images").glob("*.[np][pn][yg]"))
    if not files:
        raise FileNotFoundError(f"{folder / 'images'}: there is no .png or .npy")
    masks = [picture(folder / "masks" / path.name) > 0.5 for path in files]
    return TensorDataset(stacked([picture(path) for path in files]), stacked(masks))


def picture(path: Path) -> np.ndarray[Any, Any]:
    """Grey values (height, width), those of a PNG from 0 to 1."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    from PIL import Image

    return np.asarray(Image.open(path).convert("L")) / 255


def stacked(pictures: list[Any]) -> Tensor:
    """(samples, 1, height, width)."""
    return torch.from_numpy(np.stack(pictures)).float()[:, None]
