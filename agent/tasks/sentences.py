"""Files of labelled sentences as rows of numbers, without a vocabulary.

A word is one of so many buckets by its hash, CRC-32 of its UTF-8 in lower case: fixed before anyone
looks at data, so that agents exchange no words of their samples to agree on numbers. Words that
share a bucket are one to whoever learns.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candor.agent.tasks.classification import LabelledData, labelled, stratified
from candor.agent.tasks.files import read_lines
from candor.topologies.specs.specs import ConfigurationError

TEST_SHARE: Final = 0.1  # of a corpus without sentences to test on


@dataclass(frozen=True, slots=True)
class Sentences:
    """A file, one sentence a line with spaces between its words, and the label of all of them; None
    where each line begins with its own."""

    path: Path
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is read, and how: labels are below `classes`, `length` words of a sentence are read and
    numbered below `buckets`, 0 being none. Without `test` a fixed tenth of each class is tested on.
    """

    train: tuple[Sentences, ...]
    test: tuple[Sentences, ...]
    classes: int
    buckets: int
    length: int


@lru_cache(maxsize=1)
def read_corpus(corpus: Corpus, margin: int) -> LabelledData:
    """Sentences as rows int32 (sentences, length + margin), and their labels.

    Raises:
        ConfigurationError: a file is missing or damaged, or a line has no label, which it names.
    """
    words, labels = _numbered(corpus, corpus.train, margin)
    if corpus.test:
        train = np.ones(len(labels), bool)
        test_words, test_labels = _numbered(corpus, corpus.test, margin)
    else:
        train = ~stratified(labels, TEST_SHARE)
        test_words, test_labels = words[~train], labels[~train]
    first = corpus.train[0].path
    last = corpus.test[0].path if corpus.test else first
    return LabelledData(
        *labelled(first, words[train], labels[train], corpus.classes),
        *labelled(last, test_words, test_labels, corpus.classes),
    )


def _numbered(
    corpus: Corpus, files: Sequence[Sentences], margin: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Rows of words, and labels, of some files one after the other."""
    read = [pair for file in files for pair in _labelled_lines(file, corpus.classes)]
    words = np.zeros((len(read), corpus.length + margin), np.int32)
    for row, (text, _) in zip(words, read, strict=True):
        numbers = [bucket(word, corpus.buckets) for word in text.split()[: corpus.length]]
        row[: len(numbers)] = numbers
    return words, np.array([label for _, label in read], np.int64)


def bucket(word: str, buckets: int) -> int:
    """The number of a word, from 1 to `buckets` - 1."""
    return 1 + zlib.crc32(word.lower().encode()) % (buckets - 1)


def _labelled_lines(file: Sentences, classes: int) -> list[tuple[str, int]]:
    lines = [(number, line) for number, line in enumerate(read_lines(file.path), 1) if line.strip()]
    if file.label is not None:
        return [(line, file.label) for _, line in lines]
    found = []
    for number, line in lines:
        label, _, text = line.strip().partition(" ")
        if not (label.isascii() and label.isdecimal() and len(label) < 5 and int(label) < classes):
            raise ConfigurationError(
                f"{file.path}: row {number} does not begin with a label from 0 to {classes - 1}"
            )
        found.append((text, int(label)))
    return found
