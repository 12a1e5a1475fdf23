"""The tasks on data sets: on small files of the same formats, and on the real ones where they lie.

The real ones are looked for in `$CANDOR_DATA_ROOT`.
"""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from candor.agent.learning import chunks
from candor.agent.learning.initial import initial_model, initial_parameters
from candor.agent.learning.learner import Learner
from candor.agent.tasks import resolve_task
from candor.agent.tasks.classification import TEST_BATCH, Classification
from candor.agent.tasks.mnist import PIXELS
from candor.agent.tasks.models import cifar_cnn, femnist_cnn, mnist_cnn
from candor.agent.tasks.partition import Shard
from candor.topologies.cluster.file import AlgorithmSettings
from candor.topologies.specs.specs import ConfigurationError

ALL = Shard(0, 1)
SGD = AlgorithmSettings(name="decentralized-sgd", step_size=0.1, local_steps=1)
IMAGES, LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"
PEOPLE = "-1 3:1 123:0.5\n+1 1:1 2:1\n-1 7:1\n+1\n"

needs_data = pytest.mark.skipif(
    "CANDOR_DATA_ROOT" not in os.environ,
    reason="$CANDOR_DATA_ROOT, the directory of the real data sets, is not set",
)


# --- small files in the formats of the real ones ----------------------------------------------


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def _images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def _write_mnist(root: Path, name: str = "mnist") -> None:
    for which, count, seed in (("train", 60, 0), ("t10k", 20, 1)):
        _write_idx(root / name / f"{which}-{IMAGES}", _images(count, seed))
        _write_idx(root / name / f"{which}-{LABELS}", (np.arange(count) % 10).astype(np.uint8))


def _write_a9a(root: Path) -> None:
    (root / "a9a").mkdir()
    (root / "a9a" / "a9a.gz").write_bytes(gzip.compress(PEOPLE.encode()))
    (root / "a9a" / "a9a.t.gz").write_bytes(gzip.compress(b"-1 1:1\n-1 2:1\n+1 3:1\n"))


def _femnist() -> dict[str, NDArray[Any]]:
    """Writers 3, 5 and 8 with twelve images each, the last three of each for the test."""
    return {
        "x": _images(36),
        "y": (np.arange(36) % 62).astype(np.uint8),
        "writer": np.repeat(np.array([3, 5, 8], np.int16), 12),
        "is_test": np.arange(36) % 12 >= 9,
    }


def _write_femnist(root: Path, name: str = "femnist_105writers.npz", **changes: Any) -> None:
    arrays = {key: value for key, value in (_femnist() | changes).items() if value is not None}
    np.savez_compressed(root / name, **arrays)


def _colours(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (count, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _write_cifar10(root: Path) -> None:
    """Five batches of four images and one of ten to test on, as records of label and planes."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(6):
        count = 10 if number == 5 else 4
        planes = _colours(count, number).transpose(0, 3, 1, 2).reshape(count, -1)
        label = (np.arange(count, dtype=np.uint8) + number) % 10
        name = "test_batch.bin" if number == 5 else f"data_batch_{number + 1}.bin"
        (folder / name).write_bytes(np.column_stack([label, planes]).tobytes())


def _write_cifar10_archive(root: Path, **changes: Any) -> None:
    arrays = {
        "x_train": _colours(20),
        "y_train": (np.arange(20) % 10).astype(np.uint8),
        "x_test": _colours(5, 1),
        "y_test": np.arange(5, dtype=np.uint8),
    }
    np.savez_compressed(root / "some.npz", **(arrays | changes))


def _write_all(root: Path) -> None:
    _write_mnist(root)
    _write_mnist(root, "fashion-mnist")
    _write_a9a(root)
    _write_femnist(root)
    _write_cifar10(root)


# --- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_images_stay_bytes_and_come_in_the_order_of_the_file(tmp_path: Path, name: str) -> None:
    _write_mnist(tmp_path, name)
    inputs, labels = resolve_task(name, tmp_path).load_data(ALL, seed=0)
    assert inputs.dtype == torch.uint8
    assert inputs.numpy().tobytes() == _images(60).tobytes()
    assert labels.tolist() == [i % 10 for i in range(60)]


def test_samples_keeps_a_fixed_choice_of_training_images(tmp_path: Path) -> None:
    _write_mnist(tmp_path)

    def kept(spec: str, seed: int) -> set[bytes]:
        inputs, _ = resolve_task(spec, tmp_path).load_data(ALL, seed)
        return {row.numpy().tobytes() for row in inputs}

    few, more = kept("mnist:samples=20", 0), kept("mnist:samples=40", 0)
    assert (len(few), len(more)) == (20, 40)
    assert few < more < kept("mnist", 0)
    assert few == kept("mnist:samples=20", seed=7)
    with pytest.raises(ConfigurationError, match="60 training samples, not samples=61"):
        kept("mnist:samples=61", 0)


def test_a9a_has_a_column_for_each_feature_and_class_1_for_plus(tmp_path: Path) -> None:
    _write_a9a(tmp_path)
    inputs, labels = resolve_task("a9a", tmp_path).load_data(ALL, seed=0)
    assert inputs.shape == (4, 123)
    found = {(i, j + 1): float(inputs[i, j]) for i, j in inputs.nonzero().tolist()}
    assert found == {(0, 3): 1, (0, 123): 0.5, (1, 1): 1, (1, 2): 1, (2, 7): 1}
    assert labels.tolist() == [0, 1, 0, 1]


def test_a9a_may_have_fewer_people(tmp_path: Path) -> None:
    _write_a9a(tmp_path)
    everybody = resolve_task("a9a", tmp_path).load_data(ALL, seed=0)[0].tolist()
    few = resolve_task("a9a:samples=3", tmp_path).load_data(ALL, seed=7)[0].tolist()
    assert len(few) == 3
    assert all(one in everybody for one in few)
    with pytest.raises(ConfigurationError, match="4 training samples, not samples=5"):
        resolve_task("a9a:samples=5", tmp_path).load_data(ALL, seed=0)


def test_femnist_trains_on_ink_without_the_test_images(tmp_path: Path) -> None:
    _write_femnist(tmp_path)
    inputs, labels = resolve_task("femnist", tmp_path).load_data(ALL, seed=0)
    data = _femnist()
    train = ~data["is_test"]
    assert inputs.numpy().tobytes() == (255 - data["x"][train]).tobytes()
    assert labels.tolist() == data["y"][train].tolist()


def test_femnist_takes_another_file_of_the_same_form(tmp_path: Path) -> None:
    _write_femnist(tmp_path, "femnist_full.npz", y=np.full(36, 61, np.uint8))
    _, labels = resolve_task("femnist:file=femnist_full.npz", tmp_path).load_data(ALL, seed=0)
    assert set(labels.tolist()) == {61}
    with pytest.raises(ConfigurationError, match="not a name in the data root"):
        resolve_task("femnist:file=../femnist_full.npz", tmp_path)


def test_cifar10_comes_pixel_by_pixel_from_its_batches_in_turn(tmp_path: Path) -> None:
    _write_cifar10(tmp_path)
    inputs, labels = resolve_task("cifar10", tmp_path).load_data(ALL, seed=0)
    images = [_colours(4, number) for number in range(5)]
    assert inputs.numpy().tobytes() == np.concatenate(images).tobytes()
    assert labels.tolist() == [number + i for number in range(5) for i in range(4)]


def test_cifar10_takes_an_archive_of_images_in_its_place(tmp_path: Path) -> None:
    _write_cifar10_archive(tmp_path)
    inputs, labels = resolve_task("cifar10:file=some.npz", tmp_path).load_data(ALL, seed=0)
    assert inputs.numpy().tobytes() == _colours(20).tobytes()
    assert labels.tolist() == [i % 10 for i in range(20)]
    with pytest.raises(ConfigurationError, match="not a name in the data root"):
        resolve_task("cifar10:file=../some.npz", tmp_path)


def test_naturally_an_agent_gets_whole_writers(tmp_path: Path) -> None:
    _write_femnist(tmp_path)
    task = resolve_task("femnist", tmp_path)
    labels = _femnist()["y"].tolist()
    of_writer = {3: labels[0:9], 5: labels[12:21], 8: labels[24:33]}
    parts = [task.load_data(Shard(i, 2, "natural"), seed=0)[1].tolist() for i in range(2)]
    assert parts == [of_writer[3] + of_writer[8], of_writer[5]]
    with pytest.raises(ConfigurationError, match="3 parts for 4 agents"):
        task.load_data(Shard(0, 4, "natural"), seed=0)


def test_data_without_parts_have_no_natural_partition(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    with pytest.raises(ConfigurationError, match="have no parts of their own"):
        resolve_task("mnist", tmp_path).load_data(Shard(0, 2, "natural"), seed=0)


def test_files_are_read_once(tmp_path: Path) -> None:
    _write_all(tmp_path)
    for name in ("mnist", "a9a", "femnist"):
        resolve_task(name, tmp_path).load_data(ALL, seed=0)
    for path in tmp_path.rglob("*.*"):
        path.unlink()
    for name in ("mnist", "a9a", "femnist"):
        resolve_task(name, tmp_path).load_data(Shard(0, 2), seed=0)


def test_a_model_is_built_without_data(tmp_path: Path) -> None:
    assert len(initial_parameters(resolve_task("a9a", tmp_path / "absent"), seed=0)) == 123 * 2 + 2


def test_without_a_data_root_the_directory_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    _write_a9a(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert len(resolve_task("a9a").load_data(ALL, seed=0)[1]) == 4


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a9a", "a9a/a9a.gz"),
        ("a9a", "a9a/a9a.t.gz"),
        ("mnist", f"mnist/train-{IMAGES}"),
        ("fashion-mnist", f"fashion-mnist/t10k-{LABELS}"),
        ("femnist", "femnist_105writers.npz"),
        ("cifar10", "cifar-10-batches-bin/data_batch_3.bin"),
        ("cifar10", "cifar-10-batches-bin/test_batch.bin"),
    ],
)
def test_a_missing_file_is_told_in_one_line_with_its_path_and_the_option(
    tmp_path: Path, name: str, file: str
) -> None:
    _write_all(tmp_path)
    (tmp_path / file).unlink()
    assert str(tmp_path / file) in _refusal(name, tmp_path)
    assert "--data-root or $CANDOR_DATA_ROOT" in _refusal(name, tmp_path)


def _refusal(name: str, root: Path) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        resolve_task(name, root).load_data(ALL, seed=0)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def _idx_of(array: NDArray[np.uint8]) -> Callable[[Path], None]:
    return lambda path: _write_idx(path, array)


def _packed(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(gzip.compress(text.encode()))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _not_packed(path: Path) -> None:
    path.write_bytes(b"no such format")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "file", "spoil", "words"),
    [
        ("mnist", f"mnist/train-{IMAGES}", _cut, "is damaged"),
        ("mnist", f"mnist/train-{IMAGES}", _flipped, "is damaged"),
        ("mnist", f"mnist/train-{IMAGES}", _not_packed, "is damaged"),
        ("mnist", f"mnist/train-{IMAGES}", _empty, "is damaged"),
        ("mnist", f"mnist/t10k-{IMAGES}", _idx_of(np.zeros(784, np.uint8)), "no idx file"),
        ("mnist", f"mnist/t10k-{IMAGES}", _idx_of(np.zeros((20, 8, 8), np.uint8)), "28 x 28"),
        ("mnist", f"mnist/t10k-{LABELS}", _idx_of(np.zeros(19, np.uint8)), "do not match"),
        ("mnist", f"mnist/t10k-{LABELS}", _idx_of(np.full(20, 10, np.uint8)), "label 1 is 10"),
        ("a9a", "a9a/a9a.gz", _cut, "is damaged"),
        ("a9a", "a9a/a9a.gz", _empty, "do not match"),
        ("a9a", "a9a/a9a.gz", _packed("-1 124:1\n"), "row 1: 124:1: write INDEX:VALUE, with an"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:1\n\n-1 0:1\n"), "row 3: 0:1: write INDEX:VALUE"),
        ("a9a", "a9a/a9a.gz", _packed("-1 first:1\n"), "row 1: first:1: write INDEX:VALUE"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:1\n-1 5\n"), "row 2: 5: write INDEX:VALUE"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:one\n"), "row 1: could not convert string"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:1\n1 7:nan\n"), "row 2: feature 7 is nan, which is"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:-inf\n"), "row 1: feature 1 is -inf, which is"),
        ("a9a", "a9a/a9a.gz", _packed("-1 1:1e39\n"), "row 1: feature 1 is 1e39, which is"),
        ("a9a", "a9a/a9a.gz", _packed("\n# nobody\n"), "do not match"),
        ("a9a", "a9a/a9a.t.gz", _packed("\n2 1:1\n"), "row 2: the label is 2, not -1 or 1"),
        ("a9a", "a9a/a9a.t.gz", _packed("nan 1:1\n"), "row 1: the label is nan, not -1 or 1"),
        ("a9a", "a9a/a9a.t.gz", _packed("0.5 1:1\n"), "row 1: the label is 0.5, not -1 or 1"),
        ("mnist", f"mnist/t10k-{IMAGES}", _packed("\0\0\b"), "no idx file"),
        ("mnist", f"mnist/t10k-{LABELS}", _packed("\0\0\b\1\0\0"), "ends within its header"),
        (
            "mnist",
            f"mnist/t10k-{LABELS}",
            _packed("\0\0\b\1\0\0\0\7abc"),
            "its header says 7 bytes, and 3 follow",
        ),
        (
            "mnist",
            f"mnist/t10k-{LABELS}",
            _packed("\0\0\b\1\0\0\0\2" + "a" * 9000),
            "its header says 2 bytes, and more follow",
        ),
        ("femnist", "femnist_105writers.npz", _cut, "is damaged"),
        ("femnist", "femnist_105writers.npz", _flipped, "is damaged"),
        ("femnist", "femnist_105writers.npz", _not_packed, "is damaged"),
        ("femnist", "femnist_105writers.npz", _empty, "is damaged"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(
    tmp_path: Path, name: str, file: str, spoil: Callable[[Path], None], words: str
) -> None:
    _write_all(tmp_path)
    spoil(tmp_path / file)
    refusal = _refusal(name, tmp_path)
    assert words in refusal
    assert refusal.startswith(str(tmp_path / file))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"writer": None}, "it has no entry writer"),
        ({"y": np.full(36, 62, np.uint8)}, "label 1 is 62, not from 0 to 61"),
        ({"y": np.zeros(36)}, "its labels are float64, not whole numbers"),
        ({"y": np.uint8(3)}, "y is of shape (), x of (36, 28, 28)"),
        ({"writer": np.zeros(35, np.int16)}, "writer is of shape (35,), x of (36, 28, 28)"),
        ({"is_test": np.zeros(36)}, "is_test is float64, not bool"),
        ({"x": np.uint8(3)}, "x is uint8 of shape (), not bytes"),
        ({"is_test": np.ones(36, bool)}, "do not match"),
        ({"x": _images(36).astype(np.float32)}, "not bytes"),
        ({"y": np.array([{}] * 36)}, "entry y: Object arrays cannot be loaded"),
    ],
)
def test_an_archive_of_another_form_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    _write_femnist(tmp_path, **changes)
    assert words in _refusal("femnist", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": _colours(20).astype(np.float32)}, "images are float32 of shape"),
        ({"x_test": _colours(5).transpose(0, 3, 1, 2)}, "not bytes of 32 x 32 x 3"),
        ({"x_test": np.uint8(3)}, "not bytes of 32 x 32 x 3"),
        ({"y_train": np.full(20, 10)}, "label 1 is 10, not from 0 to 9"),
        ({"y_test": np.zeros(4, np.uint8)}, "5 samples and labels of shape (4,) do not match"),
    ],
)
def test_an_archive_of_other_images_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    _write_cifar10_archive(tmp_path, **changes)
    assert words in _refusal("cifar10:file=some.npz", tmp_path)


def test_without_its_folder_cifar10_tells_how_to_name_an_archive(tmp_path: Path) -> None:
    refusal = _refusal("cifar10", tmp_path)
    assert refusal.startswith(str(tmp_path / "cifar-10-batches-bin"))
    assert "--data-root or $CANDOR_DATA_ROOT" in refusal
    assert "cifar10:file=NAME" in refusal


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "12291 bytes are no whole number of records of 3073"),
        (lambda _data: b"", "0 bytes are no whole number"),
        (lambda data: b"\x0a" + data[1:], "label 1 is 10, not from 0 to 9"),
    ],
)
def test_a_batch_that_is_cut_or_no_batch_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    _write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(spoil(path.read_bytes()))
    assert words in _refusal("cifar10", tmp_path)
    assert str(path) in _refusal("cifar10", tmp_path)


def test_libsvm_files_may_have_comments_blank_rows_and_labels_with_a_point(tmp_path: Path) -> None:
    _write_a9a(tmp_path)
    plain = resolve_task("a9a", tmp_path).load_data(ALL, seed=0)
    rows = PEOPLE.replace("-1 7:1", "-1.0\t7:1.0 ").replace("\n", "  # a person\r\n\n")
    other = tmp_path / "other"
    other.mkdir()
    _write_a9a(other)
    _packed(f"# people\n{rows}\n \n")(other / "a9a" / "a9a.gz")
    for ours, theirs in zip(plain, resolve_task("a9a", other).load_data(ALL, seed=0), strict=True):
        assert torch.equal(ours, theirs)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_changed_bytes_are_data_or_one_line_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("spoilt")
    _write_all(root)
    name = data.draw(st.sampled_from(["mnist", "a9a", "femnist"]))
    path = data.draw(st.sampled_from(sorted(root.glob(f"{name}*/*")) or sorted(root.glob("*.npz"))))
    packed = path.suffix == ".gz"
    spoilt = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(400, len(spoilt) - 1)))
        spoilt[place] = data.draw(st.integers(0, 255))
    path.write_bytes(gzip.compress(bytes(spoilt), 1) if packed else bytes(spoilt))
    told = str(root)
    try:
        resolve_task(name, root).load_data(ALL, seed=0)
    except ConfigurationError as exc:
        told = str(exc)
    assert told.startswith(str(root))
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a9a:model=cnn", "not mlp or logistic"),
        ("a9a:3", "its options are.*samples=COUNT"),
        ("mnist:6000", "its options are.*samples=COUNT"),
        ("mnist:samples=0", "not a count"),
        ("mnist:samples=most", "not a count"),
        ("mnist:hidden=8", "hidden=WIDTH of the mlp"),
        ("fashion-mnist:model=resnet", "not cnn, paper, mlp or logistic"),
        ("cifar10:model=paper", "not cnn, mlp or logistic"),
        ("cifar10:samples=3", "its options are.*file=NAME"),
        ("femnist:samples=3", "its options are.*file=NAME"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refusal:
        resolve_task(name)
    assert "\n" not in str(refusal.value)


# --- models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("a9a", 123 * 2 + 2),
        ("a9a:model=mlp,hidden=8", 123 * 8 + 8 + 8 * 2 + 2),
        ("mnist", 640 + 50_192 + 51_400 + 2_010),
        ("fashion-mnist:model=logistic", 784 * 10 + 10),
        ("mnist:model=mlp,hidden=64", 784 * 64 + 64 + 64 * 10 + 10),
        ("mnist:model=paper", 640 + 50_192 + 51_400 + 2_010),
        ("cifar10", 1_216 + 12_832 + 96_120 + 10_164 + 850),
        ("femnist", 832 + 51_264 + 6_424_576 + 127_038),
        ("femnist:model=logistic", 784 * 62 + 62),
    ],
)
def test_options_choose_the_model(name: str, parameters: int) -> None:
    assert len(initial_parameters(resolve_task(name), seed=0)) == parameters


@pytest.mark.parametrize(
    ("build", "squash", "pad_image", "pad"),
    [(mnist_cnn, torch.tanh, 2, 0), (femnist_cnn, torch.relu, 0, 2)],
)
def test_a_cnn_is_the_papers_though_it_pools_first(
    build: Callable[[], nn.Module],
    squash: Callable[[torch.Tensor], torch.Tensor],
    pad_image: int,
    pad: int,
) -> None:
    model = build()
    w1, b1, w2, b2, w3, b3, w4, b4 = model.parameters()
    images = torch.rand(3, 784)
    x = functional.pad(images.reshape(3, 1, 28, 28), [pad_image] * 4)
    x = functional.max_pool2d(squash(functional.conv2d(x, w1, b1, padding=pad)), 2)
    x = functional.max_pool2d(squash(functional.conv2d(x, w2, b2, padding=pad)), 2)
    x = functional.linear(squash(functional.linear(x.flatten(1), w3, b3)), w4, b4)
    assert torch.allclose(model(images), x, atol=1e-6)


def test_images_of_the_paper_are_padded_and_then_standardised() -> None:
    model, plain = mnist_cnn(0.1, 0.25), mnist_cnn()
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    images = torch.rand(3, 784)
    padded = (functional.pad(images.reshape(3, 1, 28, 28), [2] * 4) - 0.1) / 0.25
    assert torch.allclose(model(images), plain[2:](padded), atol=1e-6)
    assert not list(model.buffers())


def test_the_network_of_cifar10_is_the_papers_though_it_pools_first() -> None:
    means, deviations = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    model = cifar_cnn(means, deviations)
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = model.parameters()
    images = torch.rand(3, 3072)
    x = images.reshape(3, 32, 32, 3).permute(0, 3, 1, 2)
    x = torch.stack([(x[:, c] - means[c]) / deviations[c] for c in range(3)], dim=1)
    for w, b in ((w1, b1), (w2, b2)):
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, w, b)), 2)
    x = x.flatten(1)
    for w, b in ((w3, b3), (w4, b4)):
        x = functional.relu(functional.linear(x, w, b))
    assert torch.allclose(model(images), functional.linear(x, w5, b5), atol=1e-6)


@pytest.mark.parametrize("name", ["a9a", "mnist", "mnist:model=paper", "femnist", "cifar10"])
def test_several_agents_have_the_gradients_of_each_alone(tmp_path: Path, name: str) -> None:
    _write_all(tmp_path)
    task = resolve_task(name, tmp_path)
    samples = len(task.load_data(ALL, seed=0)[1])
    shards = [Shard(i, samples) for i in range(2)]  # of one sample: whatever is drawn is known
    learner = Learner(task, shards, SGD, batch_size=2, seed=0)
    done = learner.local_steps(initial_parameters(task, 0).repeat(2, 1), 1, 0.1)
    for shard, gradient, loss in zip(shards, done.update, done.losses, strict=True):
        model = initial_model(task, 0)[0]
        expected = task.loss(model, task.load_data(shard, seed=0))
        expected.backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert torch.allclose(gradient, flat, atol=1e-6)
        assert float(loss) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["mnist:model=paper", "cifar10"])
def test_convolutions_of_many_agents_at_once_are_those_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _write_all(tmp_path)
    task = resolve_task(name, tmp_path)
    shards = [Shard(i, 2) for i in range(2)]
    x = initial_parameters(task, 0).repeat(2, 1)
    x[1] *= 1.1
    together = Learner(task, shards, SGD, batch_size=4, seed=0)
    monkeypatch.setattr(chunks, "CACHE_BYTES", 1)
    one_by_one = Learner(task, shards, SGD, batch_size=4, seed=0)
    assert (len(one_by_one.chunks), len(together.chunks)) == (2, 1)
    each, all_at_once = (one.local_steps(x, 1, 0.1).update for one in (one_by_one, together))
    # By the norm: where two pixels of a pool are one but for rounding, either passes a gradient on.
    assert bool(((each - all_at_once).norm(dim=1) < 1e-3 * each.norm(dim=1)).all())


def test_images_lie_in_memory_as_convolutions_take_them_fastest() -> None:
    """Also where there is one channel, whose place in memory nothing else tells."""
    for model, features in ((mnist_cnn(0.1, 0.25), 784), (cifar_cnn([0.5] * 3, [0.2] * 3), 3072)):
        layers = [layer for layer in model if not isinstance(layer, nn.Flatten | nn.Linear)]
        seen = nn.Sequential(*layers[:5])(torch.rand(2, features))
        assert seen.shape[1] > 1
        assert seen.is_contiguous(memory_format=torch.channels_last)


def test_the_metric_counts_over_all_batches_of_test_images(tmp_path: Path) -> None:
    count = 2 * TEST_BATCH + 5
    images, labels = _images(count), (np.arange(count) % 10).astype(np.uint8)
    _write_mnist(tmp_path)
    _write_idx(tmp_path / "mnist" / f"t10k-{IMAGES}", images)
    _write_idx(tmp_path / "mnist" / f"t10k-{LABELS}", labels)
    task = resolve_task("mnist:model=logistic", tmp_path)
    model = task.build_model()
    logits = model(torch.from_numpy(images.reshape(count, -1) / np.float32(255)))
    hits = logits.argmax(1).numpy() == labels
    assert 0 < hits.mean() < 1
    assert task.evaluate(model) == hits.mean()


# --- the real data ----------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("a9a", [24720, 7841], [12435, 3846]),
        (
            "mnist",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        ("fashion-mnist", [6000] * 10, [1000] * 10),
    ],
)
def test_the_classes_are_as_many_as_published(name: str, train: list[int], test: list[int]) -> None:
    data = _real(name).read()
    assert torch.bincount(data.labels).tolist() == train
    assert torch.bincount(data.test_labels).tolist() == test


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_pixels_are_standardised_by_what_the_training_images_have(name: str) -> None:
    data = _real(name).read()
    some = data.inputs.split(1000)
    of_bytes = sum(np.bincount(images.flatten(), minlength=256) for images in some)
    pixels, padded = np.arange(256) / 255, 60_000 * 32**2
    mean = (of_bytes * pixels).sum() / padded
    deviation = ((of_bytes * pixels**2).sum() / padded - mean**2) ** 0.5
    assert (round(mean, 4), round(deviation, 4)) == PIXELS[name]


@needs_data
def test_the_part_of_cifar10_has_all_classes_alike() -> None:
    data = _real("cifar10:file=cifar10_subset_20k_4k.npz").read()
    assert torch.bincount(data.labels).tolist() == [2000] * 10
    assert torch.bincount(data.test_labels).tolist() == [400] * 10


@needs_data
def test_sorted_a9a_has_mostly_one_relationship_an_agent() -> None:
    data = _real("a9a").read()
    assert data.parts is not None
    assert np.bincount(data.parts).tolist() == [1568, 5068, 13193, 8305, 981, 3446]
    for agent in range(10):
        own = np.bincount(data.parts[Shard(agent, 10, "sorted").select(data.labels, 0, data.parts)])
        assert len(own[own > 0]) <= 3
        assert own.max() > 0.4 * own.sum()


@needs_data
def test_femnist_has_its_writers() -> None:
    data = _real("femnist").read()
    assert (len(data.labels), len(data.test_labels)) == (14_626, 1_662)
    sizes = np.unique(data.parts, return_counts=True)[1]
    assert len(sizes) == 105
    parts = [len(_real("femnist").load_data(Shard(i, 105, "natural"), 0)[1]) for i in range(105)]
    assert parts == sizes.tolist()
    corners = data.inputs.reshape(-1, 28, 28)[:, :2, :2].float()
    assert corners.mean() < 1  # the background is 0: 255 in the file


@needs_data
@pytest.mark.parametrize(
    ("spec", "steps", "step_size", "accuracy"),
    [
        ("a9a", 600, 0.5, 0.843),
        ("mnist:model=logistic", 600, 0.3, 0.88),
        ("fashion-mnist:model=logistic", 600, 0.1, 0.76),
        ("femnist:model=logistic", 600, 0.2, 0.55),
    ],
)
def test_a_short_training_reaches_a_linear_models_accuracy(
    spec: str, steps: int, step_size: float, accuracy: float
) -> None:
    reached, _ = _train(spec, steps, step_size)
    assert reached[0] >= accuracy


@needs_data
@pytest.mark.parametrize(
    ("spec", "step_size"),
    [
        ("mnist:samples=6000", 0.1),
        ("mnist:samples=6000,model=paper", 0.1),
        ("femnist", 0.06),
    ],
)
def test_a_cnn_learns(spec: str, step_size: float) -> None:
    _, losses = _train(spec, steps=25, step_size=step_size, evaluate=False)
    assert losses[-5:].mean() < 0.9 * losses[0]


def _train(
    spec: str, steps: int, step_size: float, evaluate: bool = True
) -> tuple[list[float], torch.Tensor]:
    """The accuracy of one agent that has all data, and its losses (steps,)."""
    task = _real(spec)
    learner = Learner(task, [ALL], SGD, batch_size=64, seed=0)
    x, losses = initial_parameters(task, 0).unsqueeze(0), []
    for t in range(1, steps + 1):
        done = learner.local_steps(x, t, step_size)
        x = x - step_size * done.update
        losses.append(done.losses)
    return [one.value for one in learner.evaluate(x)] if evaluate else [], torch.cat(losses)


def _real(spec: str) -> Classification:
    task = resolve_task(spec, Path(os.environ["CANDOR_DATA_ROOT"]))
    assert isinstance(task, Classification)
    return task
