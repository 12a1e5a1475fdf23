"""A text classifier: a Hugging Face transformer from a config, trained whole with AdamW.

Shows an optimiser and a cosine schedule that stay with the host (and survive a restart), a
DataLoader of one's own, gradient clipping, and a tokenizer that needs no vocabulary.

    candor testbed --agents 4 --topology ring --task transformer_text:Reviews --partition iid \
        --rounds 8 --local-steps 10 --evaluate-every 4 --run-dir runs/text

Data: sentences of a small grammar with words that praise, that blame, and a "not" that turns them
round. With the data root's `text/rt-polarity.pos.gz` and `.neg.gz`, sentences of film reviews in
their place (10,662; `--rounds 60 --local-steps 20`). Your own: change `sentences`.
"""

import gzip
import os
import random
import zlib
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from candor.agent.tasks.context import TrainingContext

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers: it must not dial out

WORDS: Final = 8192  # the rows of the embedding; a word's hash says which is its
LENGTH: Final = 32  # words of a sentence that are read
TEST_SHARE: Final = 0.2


class Reviews:
    """Whether a sentence praises or blames."""

    def __init__(self, data_root: Path | None = None) -> None:
        texts, labels = sentences(data_root)
        data = TensorDataset(torch.stack([tokens(text) for text in texts]), torch.tensor(labels))
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
        tests = int(TEST_SHARE * len(data))
        self.test, self.data = Subset(data, order[:tests]), Subset(data, order[tests:])
        self.labels = torch.tensor(labels)[order[tests:]]

    def build_model(self) -> nn.Module:
        """Two layers, 64 wide; any other model of `transformers` serves as well."""
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        config = DistilBertConfig(
            vocab_size=WORDS,
            max_position_embeddings=LENGTH,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=256,
            num_labels=2,
        )
        return DistilBertForSequenceClassification(config)

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says; the step size falls from round to round."""
        optimizer = context.keep(
            "optimizer", lambda: torch.optim.AdamW(model.parameters(), lr=1e-3)
        )
        schedule = context.keep(
            "schedule",
            lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=context.rounds),
        )
        mine = Subset(self.data, context.shard.select(self.labels.numpy(), context.seed).tolist())
        loader = DataLoader(mine, context.batch_size, shuffle=True, generator=context.generator)
        losses = []
        for ids, labels in context.batches(loader):
            loss = model(**inputs(ids, context.device), labels=labels.to(context.device)).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> float:
        """The share of the test sentences classified correctly."""
        device = next(model.parameters()).device
        right = 0
        for ids, labels in DataLoader(self.test, 256):
            guesses = model(**inputs(ids, device)).logits.argmax(1).cpu()
            right += int((guesses == labels).sum())
        return right / len(self.test)


def inputs(ids: Tensor, device: torch.device) -> dict[str, Tensor]:
    """What the model is called with: tokens (batch, LENGTH) and where there are any."""
    ids = ids.to(device)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def tokens(text: str) -> Tensor:
    """The numbers of a sentence's words, (LENGTH,): 1 begins it, 0 fills up."""
    words = text.lower().split()[: LENGTH - 1]
    # Not Python's hash(), which differs from process to process.
    ids = [1] + [2 + zlib.crc32(word.encode()) % (WORDS - 2) for word in words]
    return torch.tensor(ids + [0] * (LENGTH - len(ids)))


def sentences(data_root: Path | None) -> tuple[list[str], list[int]]:
    """Texts and their labels: 1 praises, 0 blames."""
    files = [] if data_root is None else sorted((data_root / "text").glob("rt-polarity.*.gz"))
    texts: list[str] = []
    labels: list[int] = []
    for file in files:
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        texts += lines
        labels += [int(".pos." in file.name)] * len(lines)
    return (texts, labels) if files else grammar(2000)


def grammar(count: int) -> tuple[list[str], list[int]]:
    """So many sentences, such as "frankly the plot was not dull": 1."""
    rng = random.Random(7)
    good = ["bright", "clever", "funny", "gripping", "moving", "subtle", "tender", "warm"]
    bad = ["bland", "clumsy", "dull", "empty", "flat", "noisy", "shallow", "tired"]
    about = ["acting", "camera", "cast", "dialogue", "ending", "music", "plot", "story"]
    openings = ["frankly", "overall", "perhaps", "sadly", "still", "surely"]
    texts, labels = [], []
    for _ in range(count):
        label, turned = rng.randrange(2), rng.random() < 0.25
        word = rng.choice(good if label != turned else bad)
        words = [rng.choice(openings), "the", rng.choice(about), "was", *["not"] * turned, word]
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels
