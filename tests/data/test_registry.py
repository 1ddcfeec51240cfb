"""Data sets by name."""

import pytest
import torch
from torch.utils.data import TensorDataset

from thalweg.core.registry import Registry
from thalweg.data import registry
from thalweg.data.registry import dataset_names, load_data, load_train_test, register_dataset


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """A registered data set of 7 training and 5 test examples."""
    monkeypatch.setattr(registry, "_DATASETS", Registry({}))
    calls = []

    def loader(split, root):
        calls.append((split, root))
        n = 7 if split == "train" else 5
        return torch.arange(n).float(), torch.arange(n)

    register_dataset("toy", loader)
    return calls


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the current folder."""
    (tmp_path / "own_data.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "x, y = torch.zeros(3, 2), torch.zeros(3)\n"
        "def tensors(): return x, y\n"
        "def dataset(): return TensorDataset(x, y)\n"
        "def pair(): return (x, y), (x[:1], y[:1])\n"
        "def datasets(): return [dataset(), dataset()]\n"
        "def dictionary(): return {'x': x, 'labels': y}\n"
        "def broken(): return x[7]\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_splits_and_first_examples(toy):
    assert load_data("toy:train", "folder")[1].tolist() == list(range(7))
    assert load_data("toy:test")[1].tolist() == list(range(5))
    x, y = load_data("toy:train:4")
    assert x.tolist() == y.tolist() == [0, 1, 2, 3]
    assert len(load_data("toy:test:5")[0]) == 5
    assert toy[0] == ("train", "folder")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("toy", "must name a split of toy, such as toy:train"),
        ("toy:valid", "must name a split of toy"),
        ("toy:train:", "number of examples of at least 1, got ''"),
        ("toy:train:0", "number of examples of at least 1, got '0'"),
        ("toy:train:-3", "number of examples of at least 1, got '-3'"),
        ("toy:train:few", "number of examples of at least 1, got 'few'"),
        ("toy:train:8", "more than the 7 examples there are"),
        ("unknown", "`data` must be toy with a split or module:callable, got 'unknown'"),
        ("no_such_module:load", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_bad_names_say_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        load_data(spec)


def test_own_callables_come_back_as_they_are(own):
    assert [tuple(t.shape) for t in load_data("own_data:tensors")] == [(3, 2), (3,)]
    assert isinstance(load_data("own_data:dataset"), TensorDataset)
    with pytest.raises(ValueError, match=r"cannot be imported: .*no attribute 'nothing'"):
        load_data("own_data:nothing")
    with pytest.raises(
        ValueError, match="`data` own_data:broken raised IndexError: index 7 is out of bounds"
    ):
        load_data("own_data:broken")
    with pytest.raises(ValueError, match="must name something to call, got int"):
        load_data("own_data:number")


def test_train_and_test(own, toy):
    train, test = load_train_test("toy", "folder")
    assert (len(train[0]), len(test[0])) == (7, 5)
    assert toy == [("train", "folder"), ("test", "folder")]
    train, test = load_train_test("toy:3")
    assert (len(train[0]), len(test[0])) == (3, 5)
    with pytest.raises(ValueError, match="number of examples of at least 1, got 'train'"):
        load_train_test("toy:train")


def test_own_pairs_are_told_from_inputs_and_targets(own):
    train, test = load_train_test("own_data:tensors")
    assert len(train) == 2
    assert test is None
    train, test = load_train_test("own_data:pair")
    assert len(test[0]) == 1
    train, test = load_train_test("own_data:datasets")
    assert isinstance(test, TensorDataset)
    for name in ("dataset", "dictionary"):
        assert load_train_test(f"own_data:{name}")[1] is None


def test_register_refuses_taken_and_odd_names():
    with pytest.raises(ValueError, match="'toy' is registered already"):
        register_dataset("toy", lambda split, root: ())
    for name in ("", "a:b"):
        with pytest.raises(ValueError, match="a word without a colon"):
            register_dataset(name, lambda split, root: ())
    assert dataset_names() == ("toy",)


def test_fashion_mnist_is_registered(monkeypatch):
    monkeypatch.undo()
    assert "fashion-mnist" in dataset_names()
