"""Read a study file: YAML with the arguments of :func:`monai_lossext.compare.check.plan_study` as keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from monai_lossext.bundle_folders import named_bundle
from monai_lossext.compare.plan import StudyError
from monai_lossext.text import did_you_mean

STUDY_FILE = "study.yaml"  # in the study's folder


def _one(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def _several(items: dict[str, Any], description: str) -> dict[str, Any]:
    items = {**items, "description": items["description"] or description}
    return {"type": "array", "items": items, "minItems": 1, "description": description}


# A message about a value is made of the description beside it: "expected a number of epochs, got 0".
LOSS = _one(["string", "object"], "the name of a loss, or a dictionary with _target_, or one with loss and name")
RATE = _one(["number", "string"], "a learning rate, a number above 0")  # YAML takes 1e-4 for text
EPOCHS = _one("integer", "a number of epochs, at least 1", minimum=1)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "a dictionary of keys",
    "additionalProperties": False,
    "required": ["bundle", "losses", "dataset_dir", "output"],
    "properties": {
        "bundle": _one("string", "the folder of a bundle"),
        "losses": _several(LOSS, "a list of losses, each a name or a dictionary"),
        "dataset_dir": _one("string", "the folder of a data set, or synthetic"),
        "output": _one("string", "the folder for runs and report"),
        "epochs": EPOCHS,
        "seeds": {
            "anyOf": [_one("integer", "", minimum=1), _several(_one("integer", "", minimum=0), "")],
            "description": "a number of seeds, at least 1, or a list of seeds from 0 on",
        },
        "folds": _one("integer", "a number of folds, at least 2", minimum=2),
        "split_file": _one("string", "a file with the cases of each part"),
        "section": _one("string", "validation or testing", enum=["validation", "testing"]),
        "baseline": _one("string", "the name of one of the losses"),
        "configs": _several(_one("string", ""), "a list of config files"),
        "overrides": _one("object", "a dictionary of config ids and values"),
        "skip_bad": _one("boolean", "true or false"),
        "primary": _one("string", "a column of cases.csv"),
        "margin": _one("number", "a difference of the primary metric, above 0", exclusiveMinimum=0),
        "keep_checkpoints": _one("boolean", "true or false"),
        "futility": {
            "type": "object",
            "description": "a dictionary with epochs and below",
            "additionalProperties": False,
            "required": ["epochs", "below"],
            "properties": {
                "epochs": EPOCHS,
                "below": _one("number", "a validation score"),
                "score": _one("string", "a column of history.csv"),
            },
        },
        "metrics": _several(_one("string", ""), "a list of columns of cases.csv"),
        "learning_rate": RATE,
        "pretraining": {
            "type": "object",
            "description": "a dictionary with loss and epochs",
            "additionalProperties": False,
            "required": ["loss", "epochs"],
            "properties": {"loss": LOSS, "epochs": EPOCHS, "learning_rate": RATE},
        },
        "initial_weights": _one("string", "a file of weights, such as models/best.pt of another run"),
        "executor": {
            "type": ["string", "object"],
            "description": "local, ray, or a dictionary with name and options",
            "additionalProperties": False,
            "properties": {
                "name": _one("string", "local or ray", enum=["local", "ray"]),
                "processes": _one("integer", "a number of runs at the same time, at least 1", minimum=1),
                "threads": _one("integer", "a number of threads of each run, at least 1", minimum=1),
                "address": _one("string", "the address of a Ray cluster"),
                "cpus": _one("number", "a number of processors of each run, above 0", exclusiveMinimum=0),
                "gpus": _one("number", "a number or fraction of GPUs of each run, at least 0", minimum=0),
                "retries": _one("integer", "a number of retries, at least 0", minimum=0),
            },
        },
    },
}
PATHS = ("bundle", "dataset_dir", "output", "split_file", "initial_weights")


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def find_study(path: Path) -> Path:
    """Return the study file that is meant: the file itself, or that of a study's folder.

    Raises:
        StudyError: there is none.
    """
    file = path / STUDY_FILE if path.is_dir() else path
    if not file.is_file():
        there = f"{path} holds no {STUDY_FILE}, it is not the folder of a study" if path.is_dir() else f"no file {path}"
        raise StudyError(f"there is no study: {there}")
    return file


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study file; paths in it are relative to its folder.

    Returns:
        Arguments of :func:`monai_lossext.compare.check.plan_study`; the required ones may be missing.

    Raises:
        StudyError: the message names the file and the key.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    errors = sorted(Draft202012Validator(SCHEMA).iter_errors(values), key=lambda error: list(map(str, error.path)))
    for wrong in errors:
        # Those that are missing may be given on the command line.
        if wrong.validator != "required" or wrong.path:
            raise StudyError(f"{path}: {_message(wrong)}")
    if isinstance(values.get("seeds"), int):
        values["seeds"] = list(range(values["seeds"]))
    for key in PATHS:
        if key in values and values[key] != "synthetic":
            beside = _beside(path, values[key])
            named = key == "bundle" and not Path(beside).exists()
            values[key] = named_bundle(values[key], beside) if named else beside
    if "configs" in values:
        values["configs"] = [_beside(path, name) for name in values["configs"]]
    if "losses" in values:
        values["losses"] = [_loss_beside(path, item) for item in values["losses"]]
    if "pretraining" in values:
        values["pretraining"]["loss"] = _loss_beside(path, values["pretraining"]["loss"])
    return values


def missing_key(values: dict[str, Any]) -> str:
    """Return a message about the first required key that is missing, named as an option; "" if there is none."""
    for key in SCHEMA["required"]:
        if values.get(key) in (None, "", []):
            return f"--{key.replace('_', '-')}: is missing; expected {SCHEMA['properties'][key]['description']}"
    return ""


def in_file(message: str, path: Path, given: set[str]) -> str:
    """Turn a message about an option into one about the key of a study file, unless the option was given itself.

    >>> in_file("--dataset-dir: there is no folder x", Path("study.yaml"), {"epochs"})
    'study.yaml: dataset_dir: there is no folder x'
    """
    names = {"config": "configs", "override": "overrides", "seed": "seeds"}
    match = re.match(r"--([a-z-]+): ", message)
    if match is None:
        return message
    key = names.get(match[1], match[1].replace("-", "_"))
    if key in given:
        return message
    inner = "" if key in SCHEMA["properties"] else "executor: "
    return f"{path}: {inner}{key}: {message[match.end() :]}"


def _message(error: ValidationError) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f"{part}: " for part in error.path)
    where = re.sub(r": (?=\[)", "", where) + (": " if where.endswith("]") else "")
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        hint = did_you_mean(str(unknown), known) or f"; known: {', '.join(known)}"
        return f"{where}unknown key {unknown!r}{hint}"
    if error.validator == "required":
        name = next(name for name in error.schema["required"] if name not in error.instance)
        return f"{where}{name} is missing; expected {error.schema['description']}"
    return f"{where}expected {error.schema['description']}, got {error.instance!r}"


def _beside(path: Path, name: str) -> str:
    return str(path.absolute().parent / Path(name).expanduser())


def _loss_beside(path: Path, item: Any) -> Any:
    if isinstance(item, str) and item.endswith((".yaml", ".yml", ".json")):
        return _beside(path, item)
    if isinstance(item, dict) and isinstance(item.get("loss"), str):
        return {**item, "loss": _loss_beside(path, item["loss"])}
    return item
