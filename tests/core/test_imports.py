import sys

import pytest

from thalweg.core.imports import import_callable


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the current folder, which nothing has made importable."""
    (tmp_path / "own_for_imports.py").write_text(
        "def build():\n    return 'built'\n\n\nclass Outer:\n    inner = staticmethod(build)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield "own_for_imports"
    sys.modules.pop("own_for_imports", None)


def test_the_current_folder_is_importable(own_module):
    assert import_callable(f"{own_module}:build", "model")() == "built"
    assert import_callable(f"{own_module}:Outer.inner", "model")() == "built"
    assert import_callable("math:sqrt", "loss")(4) == 2


@pytest.mark.parametrize("name", ["", "resnet", ":build", "module:", ":"])
def test_another_form_names_what_is_wanted(name):
    with pytest.raises(ValueError, match=r"`model` must be small_cnn or module:callable, got"):
        import_callable(name, "model", ["small_cnn"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all:f", "`data` .* cannot be imported: No module named"),
        ("math:no_such_function", "`data` .* cannot be imported: .*no attribute 'no_such_function'"),
        ("bad name:f", "`data` .* cannot be imported"),
        ("math:pi", "`data` must name something to call, got float for 'math:pi'"),
    ],
)
def test_what_cannot_be_called_says_why(name, message):
    with pytest.raises(ValueError, match=message):
        import_callable(name, "data")
