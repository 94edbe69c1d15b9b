"""The logbook of a search: notes and artifacts for the dashboard, which never end a study where they fail."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import soundfile
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from corpora.audio import SAMPLE_RATE
from corpora.roles import Example
from search.artifacts import keep_artifact, kept_artifacts
from search.finals import Finals
from search.job import Job
from search.loop import limits_of
from search.notes import finalist_note, noted_trials, study_note, trial_note, write_note
from search.pictures import plan_picture
from search.rungs import BYTES
from space.errors import first_line
from space.genes import decode

# After so many trials the study's note says anew how it stands.
_EVERY = 20
# The last of a complete trial's own files.
_PICTURE = "plan.svg"


@dataclass
class Logbook:
    """Of one search; what could not be written is said once (`_said`), and the search goes on."""

    job: Job
    _said: set[str] = field(default_factory=set)

    def opened(self) -> None:
        """Notes what ended while nobody did or could, and how the study stands."""
        trials = self.job.study.get_trials(deepcopy=False)
        with self._or_said("notes"):
            noted, kept = noted_trials(self.job.study), kept_artifacts(self.job.study, self.job.settings.folder)
            for trial in trials:
                if (trial._trial_id, _PICTURE) not in kept:
                    self._drawn(trial)
                if trial.state.is_finished() and trial._trial_id not in noted:
                    self._noted(trial)
        self._stands(trials)

    def ended(self, trial: FrozenTrial) -> None:
        """Notes a trial that has ended."""
        self._drawn(trial)
        self._noted(trial)
        if (trial.number + 1) % _EVERY == 0:
            self._stands(self.job.study.get_trials(deepcopy=False))

    def closed(self, finals: Sequence[Finals], summary: Mapping[str, Any]) -> None:
        """Notes the finalists, and how the study came out."""
        trials = self.job.study.get_trials(deepcopy=False)
        for final in finals:
            champion = final.champion
            for result in [*final.results, *([final.baseline] if final.baseline else [])]:
                trial = trials[result["trial"]]
                with self._or_said("notes"):
                    best = champion is not None and champion["trial"] == trial.number
                    write_note(self.job.study, trial._trial_id, self._note(trial) + finalist_note(result, best))
                self._keep_samples(trial, result.get("samples", []))
        self._stands(trials, summary)

    def _drawn(self, trial: FrozenTrial) -> None:
        """A complete trial has its plan, and a picture of it."""
        if trial.state != TrialState.COMPLETE:
            return
        layout, plan = self.job.source.layout, decode(trial.params, self.job.source.layout)
        title = f"trial {trial.number}: chrF {100 - trial.values[0]:.1f}, {trial.user_attrs[BYTES]:,} bytes"
        with self._or_said("artifacts"):
            self._keep(trial, "plan.json", plan.to_json().encode())
            self._keep(trial, _PICTURE, plan_picture(layout, plan, title).encode())

    def _noted(self, trial: FrozenTrial) -> None:
        with self._or_said("notes"):
            write_note(self.job.study, trial._trial_id, self._note(trial), first=True)

    def _note(self, trial: FrozenTrial) -> str:
        job, evaluated = self.job, BYTES in trial.user_attrs
        return trial_note(
            trial,
            decode(trial.params, job.source.layout) if evaluated else None,
            limits_of(trial.user_attrs, job.ranges) if evaluated else None,
            sampler=job.settings.sampler,
            gate=job.gate,
        )

    def _stands(self, trials: Sequence[FrozenTrial], summary: Mapping[str, Any] | None = None) -> None:
        job = self.job
        body = study_note(
            job.settings.study,
            [one.size_range for one in job.ranges],
            job.source.layout,
            directions=job.settings.directions,
            sampler=job.settings.sampler,
            asked=job.settings.trials,
            trials=trials,
            summary=summary,
        )
        with self._or_said("notes"):
            write_note(job.study, None, body)

    def _keep_samples(self, trial: FrozenTrial, samples: Sequence[Mapping[str, str]]) -> None:
        """The translations as a table, and what was heard."""
        if not samples:
            return
        table = io.StringIO()
        rows = csv.DictWriter(table, list(samples[0]))
        rows.writeheader()
        rows.writerows(samples)
        known = {example.id: example for example in self.job.exam.corpus.examples("select")}
        with self._or_said("artifacts"):
            self._keep(trial, "translations.csv", table.getvalue().encode())
            for place, name in enumerate(dict.fromkeys(one["id"] for one in samples)):
                speech = _speech(known[name])
                if speech is not None:
                    self._keep(trial, f"speech-{place + 1}.flac", speech)

    def _keep(self, trial: FrozenTrial, name: str, data: bytes) -> None:
        keep_artifact(self.job.study, self.job.settings.folder, trial._trial_id, name, data)

    @contextmanager
    def _or_said(self, what: str) -> Iterator[None]:
        """Goes on where a disk or a database does not take them."""
        try:
            yield
        except (OSError, StorageInternalError, SQLAlchemyError) as error:
            if what not in self._said:
                self._said.add(what)
                reason = first_line(error.__cause__ or error)
                self.job.console.print(f"{what} are not kept ({reason}); the search goes on", markup=False)


def _speech(example: Example) -> bytes | None:
    """A FLAC file; None of a text."""
    if isinstance(example.utterance, str):
        return None
    file = io.BytesIO()
    soundfile.write(file, example.utterance, SAMPLE_RATE, format="FLAC")
    return file.getvalue()
