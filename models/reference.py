"""What ``--model`` may name: nothing (the bundled miniature), a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from space.errors import UserError, first_line

BUNDLED = Path(__file__).parent / "bundled"
_PATTERNS = ["*.json", "*.txt", "*.safetensors"]


def resolve_model(reference: str | None) -> Path:
    """The folder of a model. Raises UserError where there is no such folder and no such repository."""
    if reference is None:
        return BUNDLED
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(reference):
        raise UserError(f"--model {reference}: no such folder; give a folder or a hub id such as Qwen/Qwen2-Audio-7B")
    return download(reference, _PATTERNS, "check the name and the connection")


def is_hub_id(reference: str) -> bool:
    """Whether a reference has the form of a repository on the hub."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", reference) is not None


def download(reference: str, patterns: Sequence[str], advice: str) -> Path:
    """The folder a repository's files were downloaded to; `advice` ends the UserError where the hub gives nothing."""
    try:
        return Path(snapshot_download(reference, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"--model {reference}: no such folder, and the hub does not give it ({first_line(error)}); {advice}"
        ) from error
