"""What makes a checkpoint's folder load with transformers alone: its config, one file of code, and hashes."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from models import modeling_tightfit as reader

CODE = "modeling_tightfit.py"
# What stands before the family's name in a checkpoint's model type.
_MARK = "tightfit_"
_CLASSES = {
    "qwen2_audio": "TightfitQwen2Audio",
    "qwen2": "TightfitQwen2",
    "llama": "TightfitLlama",
    "mistral": "TightfitMistral",
}
# Where transformers' own classes would look for weights: they refuse it, and make no model of random weights.
_FOREIGN = {"transformers_weights": "load with trust_remote_code=True"}
_HEARING = ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM")
_READING = ("AutoModelForCausalLM",)
# Hash, two spaces, name, end of line.
_SUM = "{}  {}\n"


def packaged(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a source, as a checkpoint carries them along; hashes are zeros until `summed` fills them in."""
    if "config.json" not in files:
        return dict(files)
    config = json.loads(files["config.json"])
    family = config["model_type"]
    name = _CLASSES[family]
    automatic = _HEARING if family == "qwen2_audio" else _READING
    config |= {
        **_FOREIGN,
        "model_type": _MARK + family,
        "architectures": [name],
        "dtype": "float32",
        "auto_map": {
            "AutoConfig": f"{CODE[:-3]}.{name}Config",
            **dict.fromkeys(automatic, f"{CODE[:-3]}.{name}"),
        },
    }
    config.pop("torch_dtype", None)
    found = {
        **files,
        "config.json": json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode(),
        CODE: code_of(family),
    }
    names = sorted([*found, reader.WEIGHTS, reader.PLAN])
    return {**found, reader.SUMS: "".join(_SUM.format("0" * 64, name) for name in names).encode()}


def summed(folder: Path) -> None:
    """Writes the hashes of all other files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != reader.SUMS)
    lines = [_SUM.format(file_hash(folder / name), name) for name in names]
    (folder / reader.SUMS).write_text("".join(lines))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the source model that a checkpoint's config was made of; another config as it is."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind.startswith(_MARK):
        return dict(config)
    kept = {name: value for name, value in config.items() if name not in ("auto_map", *_FOREIGN)}
    return {**kept, "model_type": kind.removeprefix(_MARK)}


@lru_cache
def code_of(family: str) -> bytes:
    """The reader's code for one family; docstrings and annotations, which would count, stay here."""
    others = {name for kind, name in _CLASSES.items() if kind != family}
    tree = ast.parse(Path(reader.__file__).read_text())
    tree.body = [node for node in tree.body if not _is_of(node, others)]
    slim = _Slim().visit(tree)
    used = {node.id for node in ast.walk(slim) if isinstance(node, ast.Name)}
    slim.body = [node for node in slim.body if not isinstance(node, ast.FunctionDef) or node.name in used]
    for node in slim.body:
        if isinstance(node, ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
    slim.body = [node for node in slim.body if not isinstance(node, ast.ImportFrom) or node.names]
    lines = ast.unparse(slim).splitlines()
    narrow = [" " * ((len(line) - len(line.lstrip())) // 4) + line.lstrip() for line in lines if line.strip()]
    head = "# Reads this checkpoint. Documented in tightfit, models/modeling_tightfit.py. Licence: Apache-2.0."
    return "\n".join([head, *narrow, ""]).encode()


def _is_of(node: ast.stmt, names: Iterable[str]) -> bool:
    return isinstance(node, ast.ClassDef) and node.name.removesuffix("Config") in names


class _Slim(ast.NodeTransformer):
    """Leaves out docstrings, annotations and names that only they need."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for argument in every:
            if argument is not None:
                argument.annotation = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> Any:
        node.body = [one for one in node.body if not _is_for_types(one)]
        return self._without_docstring(node)

    def _without_docstring(self, node: Any) -> Any:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)


def _is_for_types(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in ("__future__", "collections.abc", "typing", "numpy.typing")
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "Layers"
