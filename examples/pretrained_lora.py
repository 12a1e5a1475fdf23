"""Fine-tuning a pretrained transformer by LoRA (`peft`): only what is tuned travels.

Shows `shared`, patterns of the names of what is sent, and frozen parameters, which never travel:
of 3.8 million numbers 34,000 are sent. `Whole` tunes everything, for comparison: 100 times the
bytes. The first command pretrains a base, so that there is one, in a minute; a folder that
`save_pretrained` wrote, which all hosts hold, takes its place.

    python pretrained_lora.py runs/base
    candor testbed --agents 4 --topology ring --task pretrained_lora:Requests \
        --data-root runs/base --partition iid --rounds 6 --local-steps 4 --batch-size 16 \
        --evaluate-every 3 --run-dir runs/lora

Data: requests to a town hall by which of its four offices they are for, made of a few words.
Without `--data-root` the base is a random one. Your own: change `requests` and `MODULES`.
"""

import os
import random
import sys
import zlib
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from candor.agent.tasks.context import TrainingContext

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers: it must not dial out

WORDS: Final = 2048  # the rows of the embedding; a word's hash says which is its
LENGTH: Final = 12
MASK: Final = 2
MODULES: Final = ["query", "value"]  # where LoRA adds its low-rank matrices, by BERT's names


class Requests:
    """Which office a request is for; LoRA of rank 8, and the classifier."""

    shared: tuple[str, ...] = ("*lora_*", "*classifier*")
    lr = 4e-3

    def __init__(self, data_root: Path | None = None) -> None:
        self.base = data_root
        ids, self.labels = requests(1200, labelled=True)
        data = TensorDataset(ids, self.labels)
        self.test, self.data = Subset(data, range(200)), Subset(data, range(200, 1200))

    def build_model(self) -> nn.Module:
        """The base, frozen, with what is tuned; the same on all hosts."""
        from peft import LoraConfig, TaskType, get_peft_model

        lora = LoraConfig(TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=MODULES)
        return get_peft_model(self.build_base(), lora)

    def build_base(self) -> Any:
        """A classifier on the pretrained base, or on a random one of the same shape."""
        from transformers import BertForSequenceClassification, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if self.base is not None and (self.base / "config.json").exists():
            return BertForSequenceClassification.from_pretrained(self.base, num_labels=4)
        return BertForSequenceClassification(config(num_labels=4))

    def train(self, model: nn.Module, context: TrainingContext) -> float:
        """So many steps as the cluster file says, of AdamW on what is not frozen."""
        tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = context.keep("optimizer", lambda: torch.optim.AdamW(tuned, lr=self.lr))
        places = context.shard.select(self.labels[200:].numpy(), context.seed)
        loader = DataLoader(
            Subset(self.data, places.tolist()),
            context.batch_size,
            shuffle=True,
            generator=context.generator,
        )
        losses = []
        for ids, labels in context.batches(loader):
            loss = model(ids.to(context.device), labels=labels.to(context.device)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def evaluate(self, model: nn.Module) -> float:
        """The share of 200 requests that reach their office."""
        device = next(model.parameters()).device
        right = 0
        for ids, labels in DataLoader(self.test, 100):
            right += int((model(ids.to(device)).logits.argmax(1).cpu() == labels).sum())
        return right / len(self.test)


class Whole(Requests):
    """The same without LoRA: everything is tuned and travels."""

    shared = ("*",)
    lr = 5e-4

    def build_model(self) -> nn.Module:
        """The base with nothing frozen."""
        return self.build_base()


def config(**more: Any) -> Any:
    """A BERT of 3.7 million parameters: four layers, 256 wide."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=WORDS,
        max_position_embeddings=LENGTH,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        **more,
    )


def requests(count: int, labelled: bool) -> tuple[Tensor, Tensor]:
    """Tokens (count, LENGTH) of so many requests, and the office each is for, (count,)."""
    rng = random.Random(labelled)
    offices = [
        ["passport", "licence", "certificate", "signature", "name"],
        ["rubbish", "street", "lamp", "drain", "pavement"],
        ["school", "teacher", "nursery", "holiday", "lesson"],
        ["tax", "bill", "payment", "refund", "invoice"],
    ]
    texts, labels = [], []
    for _ in range(count):
        office = rng.randrange(4)
        ours, theirs = rng.sample(offices[office], 2), rng.choice(rng.choice(offices))
        verb = rng.choice(["lost", "ended", "broke", "changed", "came"])
        day = rng.choice(["monday", "tuesday", "today", "yesterday"])
        texts.append(f"on {day} my {theirs} and the {ours[0]} {verb} what about the {ours[1]}")
        labels.append(office)
    ids = [[3 + zlib.crc32(word.encode()) % (WORDS - 3) for word in t.split()] for t in texts]
    return torch.tensor(ids), torch.tensor(labels)


def pretrain(folder: Path, steps: int) -> None:
    """By masked words of requests that nobody labelled (Devlin et al., 2019)."""
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    model = BertForMaskedLM(config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    ids, _ = requests(5000, labelled=False)
    for _ in range(steps):
        batch = ids[torch.randint(len(ids), (32,))]
        hidden = torch.rand(batch.shape) < 0.15
        labels = batch.where(hidden, -100)
        loss = model(batch.where(~hidden, MASK), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]), steps=int(sys.argv[2]) if len(sys.argv) > 2 else 300)
