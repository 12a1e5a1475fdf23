"""Sentences to classify by the convolutional network of Kim (EMNLP 2014): `mr`, `sst`, `text`.

Files lie in `text/`, gzipped or not. `mr` is film reviews (Pang & Lee, ACL 2005), praise in
`rt-polarity.pos.gz` and blame in `rt-polarity.neg.gz`; `sst` the treebank of Socher et al. (EMNLP
2013) in Kim's form, `stsa.fine.train.gz` and `stsa.fine.test.gz`, `stsa.binary.…` for two classes.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from candor.agent.tasks.classification import Classification
from candor.agent.tasks.files import data_file, name_in_data_root
from candor.agent.tasks.sentences import Corpus, Sentences, read_corpus
from candor.topologies.specs.specs import ConfigurationError, Spec

FOLDER: Final = "text"
WINDOW: Final = 3  # words that a map sees at once
DROPOUT: Final = 0.5

SIZES: Final[Mapping[str, tuple[int, int, int]]] = {
    "buckets": (8192, 2, 1 << 22),
    "embedding": (300, 1, 4096),
    "maps": (128, 1, 4096),
    "length": (64, 1, 4096),
    "classes": (2, 2, 1024),
}
"""Options that are counts: what they are unless said, the least and the most."""
OF_SST: Final[Mapping[int, str]] = {5: "fine", 2: "binary"}


class TextCnn(nn.Module):
    """Embedding, one convolution over `WINDOW` words, ReLU, the largest over the sentence, dropout,
    one linear layer: "CNN-rand" of Kim (2014), whose embedding is learned with the rest.

    Differences: one width of windows, as in Xu et al. (NeurIPS 2021), where Kim has three, and no
    bound on the norm of the last layer. The program of Xu et al. has three times 128 maps of that
    width, which are `maps=384`.
    """

    def __init__(self, buckets: int, embedding: int, maps: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, embedding, padding_idx=0)
        self.convolution = nn.Conv1d(embedding, maps, WINDOW)
        self.dropout = nn.Dropout(DROPOUT)
        self.output = nn.Linear(maps, classes)

    def forward(self, words: Tensor) -> Tensor:
        """Logits (samples, classes) of words (samples, length + WINDOW), 0 where there are none.

        What stands behind the longest sentence and one window without words changes no maximum.
        """
        used = int((words != 0).sum(dim=1).max()) + WINDOW
        vectors = self.embedding(words[:, :used])  # (samples, used, embedding)
        seen = self.convolution(vectors.transpose(1, 2))  # (samples, maps, used - WINDOW + 1)
        features = seen.amax(dim=2).relu()  # ReLU is monotone
        logits: Tensor = self.output(self.dropout(features))
        return logits


def text_from_spec(spec: Spec, data_root: Path | None) -> Classification:
    """Build from `mr`, `sst`, `sst:classes=2`, `text:file=some.txt,test=more.txt,classes=3`.

    `buckets`, `embedding` and `maps` are sizes of the network, and `length` is how many words of a
    sentence are read. Lines of files that the spec names begin with a label, from 0 on.

    Raises:
        ConfigurationError: an unknown option or a value out of range.
    """
    named = ("file", "test") if spec.name == "text" else ()
    counted = [name for name in SIZES if name != "classes" or spec.name != "mr"]
    if spec.value is not None or spec.options.keys() - {*named, *counted}:
        known = ", ".join((*(f"{key}=NAME" for key in named), *(f"{key}=COUNT" for key in counted)))
        raise ConfigurationError(f"task {spec.name}: its options are {known}")
    sizes = {name: _size(spec, name) for name in SIZES}
    train, test = _files(spec, sizes["classes"], data_root)
    corpus = Corpus(train, test, sizes["classes"], sizes["buckets"], sizes["length"])
    network = partial(
        TextCnn, sizes["buckets"], sizes["embedding"], sizes["maps"], sizes["classes"]
    )
    return Classification(network, partial(read_corpus, corpus, WINDOW))


def _size(spec: Spec, name: str) -> int:
    usual, least, most = SIZES[name]
    if name == "classes" and spec.name == "sst":
        usual = max(OF_SST)
    size = spec.options.get(name, usual)
    if not isinstance(size, int) or not least <= size <= most:
        raise ConfigurationError(
            f"task {spec.name}: {name}={size} is not a count from {least} to {most}"
        )
    return size


def _files(
    spec: Spec, classes: int, data_root: Path | None
) -> tuple[tuple[Sentences, ...], tuple[Sentences, ...]]:
    """What a spec's task trains and tests on."""
    folder = data_file(data_root, FOLDER)
    if spec.name == "mr":
        files = enumerate(("rt-polarity.neg.gz", "rt-polarity.pos.gz"))
        return tuple(Sentences(folder / name, label) for label, name in files), ()
    if spec.name == "sst":
        if classes not in OF_SST:
            raise ConfigurationError(f"task sst: classes={classes} is not 5 or 2")
        kind = OF_SST[classes]
        train, test = (Sentences(folder / f"stsa.{kind}.{part}.gz") for part in ("train", "test"))
        return (train,), (test,)
    if "file" not in spec.options:
        raise ConfigurationError(
            "task text: name a file in text/ of the data root, such as text:file=some.txt"
        )
    own = {
        key: (Sentences(name_in_data_root(spec, str(spec.options[key]), data_root, FOLDER)),)
        for key in ("file", "test")
        if key in spec.options
    }
    return own["file"], own.get("test", ())
