"""Models by name, each from its own random stream."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.core.registry import Registry
from thalweg.models import registry
from thalweg.models.registry import build_model, model_names, register_model


def state(model):
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


@pytest.mark.parametrize("name", ["small_cnn_bn", "small_cnn"])
def test_the_seed_decides_the_bits(name):
    assert torch.equal(state(build_model(name, 1)), state(build_model(name, 1)))
    assert not torch.equal(state(build_model(name, 1)), state(build_model(name, 2)))


def test_what_was_drawn_before_does_not_matter_and_no_generator_moves():
    torch.manual_seed(5)
    first = state(build_model("small_cnn", 1))
    torch.manual_seed(6)
    np.random.seed(3)  # noqa: NPY002
    random.seed(4)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(state(build_model("small_cnn", 1)), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(
        "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(2, 3)\n"
        "def drawn():\n"
        "    net = Net()\n"
        "    with torch.no_grad(): net.bias.copy_(torch.tensor([random.random(), np.random.rand(), 0.]))\n"
        "    return net\n"
        "def text(): return 'net'\n"
        "def broken(): return {}['width']\n"
        "size = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_own_models(own):
    assert isinstance(build_model("own_model:Net", 0), nn.Linear)
    # Builders that draw from Python's or NumPy's generator are reproducible too.
    first = state(build_model("own_model:drawn", 3))
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    assert torch.equal(state(build_model("own_model:drawn", 3)), first)
    assert not torch.equal(
        build_model("own_model:drawn", 3).bias[:2], build_model("own_model:drawn", 4).bias[:2]
    )
    with pytest.raises(TypeError, match=r"must build a torch\.nn\.Module, but 'own_model:text' returned str"):
        build_model("own_model:text", 0)
    with pytest.raises(ValueError, match="`model` own_model:broken raised KeyError: 'width'"):
        build_model("own_model:broken", 0)
    with pytest.raises(ValueError, match="must name something to call, got int"):
        build_model("own_model:size", 0)
    with pytest.raises(ValueError, match="no attribute 'Nothing'"):
        build_model("own_model:Nothing", 0)


def test_unknown_names_say_what_is_known():
    with pytest.raises(
        ValueError, match="`model` must be small_cnn_bn or small_cnn or module:callable, got 'x'"
    ):
        build_model("x", 0)
    with pytest.raises(
        ValueError, match="cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    ):
        build_model("no_such_module:Net", 0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        build_model("small_cnn", None)  # type: ignore[arg-type]


def test_register(monkeypatch):
    monkeypatch.setattr(
        registry, "_MODELS", Registry({n: registry._MODELS[n] for n in registry._MODELS.names})
    )
    register_model("tiny", lambda: nn.Linear(2, 2))
    assert "tiny" in model_names()
    assert torch.equal(state(build_model("tiny", 1)), state(build_model("tiny", 1)))
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register_model("tiny", lambda: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a word without a colon"):
        register_model("a:b", lambda: nn.Linear(2, 2))
