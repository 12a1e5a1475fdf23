"""The tasks of sentences: on small files of their forms, and on the real ones where they lie."""

import gzip
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from candor.agent.learning.contexts import Contexts
from candor.agent.learning.initial import initial_parameters
from candor.agent.learning.learner import Learner, NotVectorised
from candor.agent.learning.plain import PlainSgd
from candor.agent.learning.trainer import Trainer
from candor.agent.tasks import resolve_task
from candor.agent.tasks.classification import Classification
from candor.agent.tasks.partition import Shard
from candor.agent.tasks.sentences import bucket
from candor.agent.tasks.text import WINDOW, TextCnn
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

ALL = Shard(0, 1)
SMALL = "buckets=50,embedding=8,maps=6,length=12"
SGD = AlgorithmSettings(name="decentralized-sgd", step_size=0.1, local_steps=2)
GOOD = [f"a fine film , number {i}" for i in range(40)]
BAD = [f"a dull film , number {i} of too many" for i in range(30)]

needs_data = pytest.mark.skipif(
    "CANDOR_DATA_ROOT" not in os.environ,
    reason="$CANDOR_DATA_ROOT, the directory of the real data sets, is not set",
)


def _write(root: Path, name: str, lines: list[str], end: str = "\n") -> Path:
    path = root / "text" / name
    path.parent.mkdir(exist_ok=True)
    data = "".join(line + end for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def _write_mr(root: Path) -> None:
    _write(root, "rt-polarity.pos.gz", GOOD)
    _write(root, "rt-polarity.neg.gz", BAD)


def _task(spec: str, root: Path) -> Classification:
    task = resolve_task(spec, root)
    assert isinstance(task, Classification)
    return task


def _row(sentence: str, buckets: int, length: int) -> list[int]:
    numbers = [bucket(word, buckets) for word in sentence.split()][:length]
    return numbers + [0] * (length + WINDOW - len(numbers))


# --- sentences --------------------------------------------------------------------------------


def test_the_number_of_a_word_is_fixed_and_no_data_are_looked_at_for_it(tmp_path: Path) -> None:
    assert [bucket(word, 8192) for word in ("film", "Film", "crème")] == [4201, 4201, 6259]
    assert {bucket(str(i), 3) for i in range(50)} == {1, 2}
    parameters = initial_parameters(resolve_task("mr", tmp_path / "absent"), seed=0)
    assert len(parameters) == 8192 * 300 + 300 * 128 * WINDOW + 128 + 128 * 2 + 2


def test_a_tenth_of_the_reviews_of_each_kind_is_tested_on(tmp_path: Path) -> None:
    _write_mr(tmp_path)
    data = _task(f"mr:{SMALL}", tmp_path).read()
    assert torch.bincount(data.labels).tolist() == [27, 36]
    assert torch.bincount(data.test_labels).tolist() == [3, 4]
    rows = torch.cat([data.inputs, data.test_inputs]).tolist()
    assert sorted(rows) == sorted(_row(sentence, 50, 12) for sentence in BAD + GOOD)
    praise = data.inputs[data.labels == 1].tolist()
    assert all(row in [_row(sentence, 50, 12) for sentence in GOOD] for row in praise)


@pytest.mark.parametrize(("classes", "kind"), [(5, "fine"), (2, "binary")])
def test_the_treebank_has_its_own_sentences_to_test_on(
    tmp_path: Path, classes: int, kind: str
) -> None:
    _write(tmp_path, f"stsa.{kind}.train.gz", [f"{i % classes} sentence {i}" for i in range(20)])
    _write(tmp_path, f"stsa.{kind}.test.gz", ["1 another", "0 and another"])
    data = _task(f"sst:classes={classes},{SMALL}", tmp_path).read()
    assert data.labels.tolist() == [i % classes for i in range(20)]
    assert data.test_inputs.tolist() == [
        _row(sentence, 50, 12) for sentence in ("another", "and another")
    ]
    assert data.test_labels.tolist() == [1, 0]


def test_files_of_ones_own_begin_each_line_with_a_label(tmp_path: Path) -> None:
    lines = ["0 so so", "2 VERY good", "", "1 bad " + "very " * 20, "2"] * 10
    _write(tmp_path, "some.txt", lines)
    _write(tmp_path, "some.gz", lines, end="\r\n")
    plain = _task(f"text:file=some.txt,classes=3,{SMALL}", tmp_path).read()
    packed = _task(f"text:file=some.gz,classes=3,{SMALL}", tmp_path).read()
    assert torch.equal(plain.inputs, packed.inputs)
    assert sorted(plain.test_labels.tolist()) == [0, 1, 2, 2]
    assert {tuple(row) for row in plain.inputs.tolist()} == {
        tuple(_row(sentence, 50, 12))
        for sentence in ("so so", "very good", "bad " + "very " * 20, "")
    }
    tested = _task(f"text:file=some.txt,test=some.gz,classes=3,{SMALL}", tmp_path).read()
    assert len(tested.labels) == len(tested.test_labels) == 40


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mr:classes=2", "its options are buckets=COUNT, .*length=COUNT$"),
        ("mr:file=x", "its options are"),
        ("mr:8192", "its options are"),
        ("mr:buckets=1", "buckets=1 is not a count from 2 to 4194304"),
        ("mr:buckets=many", "buckets=many is not a count"),
        ("mr:maps=0", "maps=0 is not a count from 1"),
        ("mr:length=2.5", "length=2.5 is not a count"),
        ("sst:classes=3", "classes=3 is not 5 or 2"),
        ("sst:test=x", "its options are buckets"),
        ("text", "name a file in text/ of the data root"),
        ("text:test=x", "name a file"),
        ("text:file=x,classes=1", "classes=1 is not a count from 2"),
        ("text:file=../x", "not a name in the data root"),
        ("text:file=x,test=/etc/passwd", "not a name in the data root"),
        ("text:file=x,names=2", "its options are file=NAME, test=NAME, buckets=COUNT"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        resolve_task(spec)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"0 good\n\nbad\n", "row 3 does not begin with a label from 0 to 1"),
        (b"0 good\n2 bad\n", "row 2 does not begin with a label"),
        (b"-1 good\n", "row 1 does not begin with a label"),
        ("٣ good\n".encode(), "row 1 does not begin with a label"),
        (b"0 cr\xe8me\n", "is damaged, or not what its name says"),
        (gzip.compress(b"0 good\n" * 99, mtime=0)[:-9], "is damaged, or not what its name says"),
        (b"\n\n", "0 samples"),
        (b"", "0 samples"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = _write(tmp_path, "some.txt", [])
    path.write_bytes(data)
    _refused(tmp_path, "text:file=some.txt", words)


def test_a_missing_file_is_told_in_one_line_with_its_path_and_the_option(tmp_path: Path) -> None:
    _write_mr(tmp_path)
    (tmp_path / "text" / "rt-polarity.pos.gz").unlink()
    _refused(tmp_path, "mr", "rt-polarity.pos.gz: cannot read the data: .*--data-root or")


def _refused(root: Path, spec: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        resolve_task(spec, root).load_data(ALL, seed=0)
    assert str(refusal.value).startswith(str(root))
    assert "\n" not in str(refusal.value)


# --- the network ------------------------------------------------------------------------------


def test_the_network_is_the_papers() -> None:
    """The largest, over the windows of a sentence, of what a map sees in each, behind ReLU."""
    torch.manual_seed(1)
    model = TextCnn(50, 8, 6, 3).eval()
    words = torch.tensor([[4, 7, 9, 2, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    table, kernel, bias, weight, shift = model.parameters()
    vectors = table[words.long()]  # (2, 7, 8)
    windows = torch.stack([vectors[:, i : i + WINDOW] for i in range(5)], dim=1)  # (2, 5, 3, 8)
    seen = functional.relu(torch.einsum("nwke,mek->nwm", windows, kernel) + bias)
    expected = functional.linear(seen.max(dim=1).values, weight, shift)
    assert torch.allclose(model(words), expected, atol=1e-6)


def test_a_sentence_is_the_same_whatever_stands_beside_or_behind_it() -> None:
    torch.manual_seed(1)
    model = TextCnn(50, 8, 6, 3).eval()
    short = torch.tensor([[4, 7, 0, 0, 0, 0, 0, 0, 0]])
    long = torch.tensor([[4, 7, 9, 2, 3, 8, 0, 0, 0]])
    alone = model(short)
    assert torch.allclose(model(torch.cat([short, long]))[:1], alone, atol=1e-6)
    assert torch.allclose(model(functional.pad(short, [0, 20])), alone, atol=1e-6)
    assert torch.allclose(model(torch.zeros(1, 9).long()), model(torch.zeros(1, 4).long()))


# --- training ---------------------------------------------------------------------------------


def _trainer(task: Classification, shards: list[Shard]) -> Trainer:
    contexts = Contexts(SGD, 8, 0, torch.device("cpu"), ("a0", "a1"), rounds=3)
    return Trainer(task, PlainSgd(task, shards, 0, contexts.device, 0.0), shards, contexts)


def test_agents_drop_what_seed_agent_and_round_say(tmp_path: Path) -> None:
    """Dropout is the same whoever trains beside an agent: in a daemon as in a simulation."""
    _write_mr(tmp_path)
    task = _task(f"mr:{SMALL}", tmp_path)
    shards = [Shard(i, 2) for i in range(2)]
    x = initial_parameters(task, 0).repeat(2, 1)
    with pytest.raises(NotVectorised):
        Learner(task, shards, SGD, 8, 0)

    def update(chosen: list[Shard], t: int) -> Tensor:
        return _trainer(task, chosen).local_steps(x[: len(chosen)], t, 0.1).update

    both = update(shards, 1)
    for shard in shards:
        assert torch.equal(update([shard], 1)[0], both[shard.index])
    assert not torch.equal(update(shards, 2), both)


@pytest.mark.parametrize("train", [True, False])
def test_dropout_is_for_training_alone(tmp_path: Path, train: bool) -> None:
    _write_mr(tmp_path)
    task = _task(f"mr:{SMALL}", tmp_path)
    model = task.build_model().train(train)
    batch = task.load_data(ALL, seed=0)
    losses = {float(task.loss(model, batch).detach()) for _ in range(3)}
    assert len(losses) == (3 if train else 1)


def test_praise_is_told_from_blame(tmp_path: Path) -> None:
    _write_mr(tmp_path)
    task = _task("mr:buckets=500,embedding=16,maps=8,length=12", tmp_path)
    trainer = _trainer(task, [ALL])
    x = initial_parameters(task, 0).unsqueeze(0)
    for t in range(1, 21):
        x = x - 0.1 * trainer.local_steps(x, t, 0.1).update
    assert trainer.evaluate(x)[0].value == 1


# --- the real data ----------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [
        ("mr", [4798, 4798], [533, 533]),
        ("sst", [1092, 2218, 1624, 2322, 1288], [279, 633, 389, 510, 399]),
        ("sst:classes=2", [3310, 3610], [912, 909]),
    ],
)
def test_the_sentences_are_as_many_as_published(
    spec: str, train: list[int], test: list[int]
) -> None:
    data = _task(spec, Path(os.environ["CANDOR_DATA_ROOT"])).read()
    assert torch.bincount(data.labels).tolist() == train
    assert torch.bincount(data.test_labels).tolist() == test
    assert int((data.inputs != 0).sum(dim=1).max()) < 64  # all words of all sentences are read
