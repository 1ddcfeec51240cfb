import sys

import pytest

from thalweg.core.imports import import_callable, import_extra, naming


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


def test_what_python_finds_is_imported(own_module, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_callable(f"{own_module}:build", "model")() == "built"
    assert import_callable(f"{own_module}:Outer.inner", "model")() == "built"
    assert import_callable("math:sqrt", "loss")(4) == 2


def test_where_python_looks_stays_the_callers_own(own_module):
    before = [*sys.path]
    with pytest.raises(ValueError, match="cannot be imported: ModuleNotFoundError: No module named"):
        import_callable(f"{own_module}:build", "model")
    import_callable("math:sqrt", "loss")
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}['width']", "KeyError: 'width'"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("assert False", "AssertionError"),
        ("x = (", "SyntaxError: '\\(' was never closed"),
    ],
)
def test_a_module_that_fails_says_how(tmp_path, monkeypatch, text, message):
    (tmp_path / "fails_on_import.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=rf"'fails_on_import:f' cannot be imported: {message}"):
        import_callable("fails_on_import:f", "model")


@pytest.mark.parametrize("name", ["", "resnet", ":build", "module:", ":"])
def test_another_form_names_what_is_wanted(name):
    with pytest.raises(ValueError, match=r"`model` must be small_cnn or module:callable, got"):
        import_callable(name, "model", ["small_cnn"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all:f", "`data` .* cannot be imported: ModuleNotFoundError: No module named"),
        ("math:no_such_function", "`data` .* cannot be imported: .*no attribute 'no_such_function'"),
        ("bad name:f", "`data` .* cannot be imported"),
        ("math:pi", "`data` must name something to call, got float for 'math:pi'"),
    ],
)
def test_what_cannot_be_called_says_why(name, message):
    with pytest.raises(ValueError, match=message):
        import_callable(name, "data")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("width"), "KeyError: 'width'"),
        (ValueError("two\n lines."), "ValueError: two lines"),
        (AssertionError(), "AssertionError"),
        (StopIteration(), "StopIteration"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
def test_what_a_callable_raises_names_it_and_is_kept_as_the_cause(error, words):
    with (
        pytest.raises(ValueError, match=rf"^`model` own:net raised {words}\.$") as caught,
        naming("model", "own:net"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_what_is_let_through_stays_as_it_is():
    with pytest.raises(NotImplementedError, match=r"^no$"), naming("loss", "own:loss", passing=RuntimeError):
        raise NotImplementedError("no")
    with pytest.raises(KeyboardInterrupt, match="stop"), naming("loss", "own:loss"):
        raise KeyboardInterrupt("stop")


def test_an_optional_package_that_is_not_there_names_its_extra(monkeypatch):
    assert import_extra("math", "topology") is sys.modules["math"]
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(ImportError, match=r"needs the package absent, .*pip install 'thalweg\[topology\]'"):
        import_extra("absent", "topology")
