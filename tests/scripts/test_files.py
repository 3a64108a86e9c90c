from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from monai_lossext.scripts.files import as_typed, clashes, reason


def test_names_that_are_alike_clash() -> None:
    files = {Path("1"): "caf\u00e9", Path("2"): "cafe\u0301", Path("3"): "cafe", Path("4"): "Cafe", Path("5"): "cafe"}
    assert clashes(files) == ["  cafe\u0301: 1 and 2", "  cafe: 3 and 5"]


@pytest.fixture
def on_the_command_line(monkeypatch: pytest.MonkeyPatch):
    """Let this process be `python -m monai.bundle run` with some arguments."""

    def typed(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", *arguments])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("monai.bundle.__main__", None))

    return typed


@pytest.mark.parametrize(
    "text",
    ["masks #2", "masks#2", "1", "007", "1_000", "2026_11_29", "1e3", "[a]", "{a}", "a,b", "True", "it's", "-x", ""],
)
def test_text_stays_as_it_was_typed(on_the_command_line, text: str) -> None:
    arrived = DefaultParseValue(text)
    on_the_command_line("--config_file", "x.yaml", "--output_dir", text, "--epochs", "3")
    assert as_typed(output_dir=arrived, other="default") == {"output_dir": text, "other": "default"}
    on_the_command_line("--output-dir=earlier", f"--output_dir={text}")
    assert as_typed(output_dir=arrived) == {"output_dir": text}


@pytest.mark.parametrize("text", ["masks #2", "masks#2", "1e3"])
def test_what_tracking_writes_elsewhere_is_refused(on_the_command_line, text: str) -> None:
    """MONAI writes its config to the folder that it has read, before a bundle is asked."""
    arrived = str(DefaultParseValue(text)).replace("#", "::")
    for typed in (("--tracking", "mlflow"), ("--tracking=mlflow",)):
        on_the_command_line("--output_dir", text, *typed)
        with pytest.raises(ValueError, match=f"output_dir: --tracking reads {text} as {arrived}; name another folder"):
            as_typed(output_dir=arrived)
        on_the_command_line("--output_dir", "masks", "--dataset_dir", text, *typed)
        assert as_typed(output_dir="masks", dataset_dir=arrived) == {"output_dir": "masks", "dataset_dir": text}


def test_quotes_within_quotes_are_those_of_the_command_line(on_the_command_line) -> None:
    on_the_command_line("--output_dir", "'masks #2'")
    assert as_typed(output_dir=DefaultParseValue("'masks #2'")) == {"output_dir": "masks #2"}


def test_values_that_nobody_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_typed(output_dir="a", checkpoint=Path("b"), cache_dir=None) == {
        "output_dir": "a",
        "checkpoint": "b",
        "cache_dir": None,
    }
    with pytest.raises(ValueError, match=r"output_dir: expected text, got 1, which is int"):
        as_typed(output_dir=1)
    with pytest.raises(ValueError, match=r"output_dir: a::1 holds '::', which MONAI makes of '#'"):
        as_typed(output_dir="a::1")
    monkeypatch.setattr(sys, "argv", ["study.py", "--output_dir", "mine"])  # of a program that calls a bundle
    assert as_typed(output_dir="the bundle's") == {"output_dir": "the bundle's"}


def test_reason() -> None:
    assert reason(RuntimeError()) == "RuntimeError"
    assert reason(RuntimeError("Exception thrown in SimpleITK: x.cxx:9\nsitk::ERROR: gone\n")) == "sitk::ERROR: gone"
    assert reason(OSError("Expected 9 bytes\n - is it damaged?")) == "Expected 9 bytes - is it damaged?"
    assert reason(MemoryError("Unable to allocate 2.5 PB")) == "there is not enough memory. Unable to allocate 2.5 PB"
    wrapped = RuntimeError("applying transform <...>")
    wrapped.__cause__ = OSError("the cause")
    assert reason(wrapped) == "the cause"
