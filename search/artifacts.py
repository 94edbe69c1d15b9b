"""Files that belong to trials, kept in the study's folder by Optuna's artifact store and shown by its dashboard.

A trial that has ended takes no attributes any more, which `optuna.artifacts.upload_artifact` would give it. What is
known of a file therefore stands with the study, where optuna-dashboard looks for a trial's artifacts, too.
"""

from __future__ import annotations

import io
import json
import mimetypes
import uuid
from dataclasses import asdict
from pathlib import Path

import optuna
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

FOLDER = "artifacts"
_TYPE = "application/octet-stream"
# Of the attributes in which optuna-dashboard looks for them.
_PREFIX = "dashboard:artifacts:"


def artifact_store(study_folder: Path) -> FileSystemArtifactStore:
    """That of the study in this folder; its own folder need not be there yet."""
    return FileSystemArtifactStore(study_folder / FOLDER)


def kept_artifacts(study: optuna.Study, study_folder: Path) -> set[tuple[int, str]]:
    """The files that trials of the study have: a trial's id and a name for each."""
    found = set()
    for key, told in study._storage.get_study_system_attrs(study._study_id).items():
        if key.startswith(_PREFIX):
            trial_id, _, artifact_id = key.removeprefix(_PREFIX).partition(":")
            if (study_folder / FOLDER / artifact_id).is_file():
                found.add((int(trial_id), str(json.loads(told)["filename"])))
    return found


def keep_artifact(study: optuna.Study, study_folder: Path, trial_id: int, name: str, data: bytes) -> None:
    """Keeps a file with a trial of the study; one of the same name is replaced. Raises OSError where it cannot be."""
    store, artifact_id = artifact_store(study_folder), str(uuid.uuid5(uuid.NAMESPACE_OID, f"{trial_id}/{name}"))
    (study_folder / FOLDER).mkdir(exist_ok=True)
    try:
        store.write(artifact_id, io.BytesIO(data))
    except OSError:
        (study_folder / FOLDER / artifact_id).unlink(missing_ok=True)
        raise
    meta = ArtifactMeta(artifact_id, name, mimetypes.guess_type(name)[0] or _TYPE, None)
    key = f"{_PREFIX}{trial_id}:{artifact_id}"
    study._storage.set_study_system_attr(study._study_id, key, json.dumps(asdict(meta)))
