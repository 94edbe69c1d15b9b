"""COMET's process: what it answers, and what becomes of it when environment, model or process is not whole."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring import comet_worker
from scoring.comet import Comet
from scoring.comet_env import PINS, build_comet_env, comet_python
from space.errors import UserError
from tests import comet as standing

SOURCES = ["The model is small.", "Yes.", "It translates."]
REFERENCES = ["Das Modell ist klein.", "Ja.", "Es übersetzt."]
HYPOTHESES = ["Das Modell ist groß.", "Ja.", ""]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standing.stand_in(tmp_path_factory.mktemp("comet") / "env")


@pytest.fixture
def comet(environment: Path) -> Iterator[Comet]:
    with Comet(environment=environment, patience=5) as found:
        yield found


def refusal(comet: Comet, said: str = "Ja.") -> str:
    """The one line that a score ends with."""
    with comet, pytest.raises(UserError) as raised:
        comet.score(["Yes."], [said], ["Ja."])
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_scores_are_the_models_in_their_order(comet: Comet) -> None:
    scores = comet.score(SOURCES, HYPOTHESES, REFERENCES)
    expected = tuple(map(standing.stood_in, HYPOTHESES, REFERENCES))
    assert scores.segments == expected
    assert scores.system == pytest.approx(sum(expected) / 3)
    assert scores.segments[1] == 1


def test_lines_are_stripped_as_comet_score_strips_them(comet: Comet) -> None:
    assert comet.score(["a"], [" Ja.\n"], ["Ja. "]).segments == (1.0,)


def test_a_worker_stays_for_many_requests_and_large_ones(comet: Comet) -> None:
    comet.score(SOURCES, HYPOTHESES, REFERENCES)
    process = comet._running()._process
    assert len(comet.score(SOURCES * 9000, HYPOTHESES * 9000, REFERENCES * 9000).segments) == 27000
    assert comet._running()._process is process
    comet.close()
    assert process.returncode is not None


def test_signatures_name_model_content_and_versions(environment: Path, tmp_path: Path) -> None:
    mine = standing.comet_model(tmp_path / "mine")
    other = standing.comet_model(tmp_path / "other" / "mine", b"another checkpoint")
    assert signature_of(standing.MODEL, environment) == signed(standing.MODEL, standing.CHECKPOINT)
    assert signature_of(str(mine), environment) == signed("mine", standing.CHECKPOINT)
    assert signature_of(str(mine / "checkpoints" / "model.ckpt"), environment) == signed("mine", standing.CHECKPOINT)
    assert signature_of(str(other), environment) == signed("mine", b"another checkpoint")


def signature_of(model: str, environment: Path) -> str:
    with Comet(model, environment) as comet:
        return comet.signature


def signed(model: str, checkpoint: bytes) -> str:
    digits = hashlib.sha256(checkpoint).hexdigest()[:16]
    parts = f"model:{model}|hash:{digits}|precision:float16|device:cpu|batch:16"
    return f"COMET|{parts}|version:unbabel-comet 2.2.7, torch stand-in"


def test_an_environment_that_is_missing_or_not_ours_names_the_next_step(tmp_path: Path) -> None:
    step = "make it by python launch.py comet-env (or make comet)"
    missing = tmp_path / "none"
    assert refusal(Comet(environment=missing)) == f"COMET's environment {missing} is not there; {step}"
    half = standing.environment(tmp_path / "half", "false")
    (half / ".complete").unlink()
    assert refusal(Comet(environment=half)) == f"COMET's environment {half} is not complete; {step}"
    old = standing.environment(tmp_path / "old", "false")
    (old / ".complete").write_text("unbabel-comet==2.2.6\n")
    assert refusal(Comet(environment=old)).endswith(f"has other pins than this version asks for; {step}")


def test_an_environment_that_is_wrong_is_to_be_made_anew(tmp_path: Path) -> None:
    without = standing.environment(tmp_path / "without", f'"{sys.executable}" "$@"')
    line = refusal(Comet(environment=without))
    assert "cannot be imported by" in line
    assert "No module named" in line
    assert f"delete {without} and make it anew by python launch.py comet-env" in line
    broken = standing.environment(tmp_path / "broken", "sh -c 'echo no such library >&2; exit 127'")
    line = refusal(Comet(environment=broken))
    assert "ended with status 127: no such library; delete" in line
    chatty = standing.environment(tmp_path / "chatty", "echo hello")
    assert "said b'hello', which is no answer; delete" in refusal(Comet(environment=chatty))
    no_program = standing.environment(tmp_path / "no program", "false")
    comet_python(no_program).chmod(0o644)
    assert "Permission denied; delete" in refusal(Comet(environment=no_program))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("Unbabel/no-such-model", "We couldn't connect to the hub; give a name on the hub, or a folder"),
        ("./no/such/folder", "no such file or folder; give"),
        ("empty", "there is no model.ckpt where it should be: empty/checkpoints/model.ckpt; give"),
        ("bare", "there is no hparams.yaml where it should be"),
        ("damaged", "Ran out of input; give"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(
    model: str, reason: str, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (standing.comet_model(tmp_path / "bare") / "hparams.yaml").unlink()
    standing.comet_model(tmp_path / "damaged", b"")
    line = refusal(Comet(model, environment))
    assert line.startswith(f"COMET model {model}: ")
    assert reason in line


def test_a_worker_that_is_killed_while_it_loads_is_no_fault_of_the_environment(
    environment: Path, tmp_path: Path
) -> None:
    model = standing.comet_model(tmp_path / "large", standing.KILLED.encode())
    line = refusal(Comet(str(model), environment))
    assert re.fullmatch(
        r"COMET could not be started by .*: was killed \(SIGKILL; .*; the same command scores anew", line
    )


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (standing.KILLED, r"COMET's worker was killed \(SIGKILL; .*\); the same command scores anew"),
        (standing.ENDED, r"COMET's worker ended with status 3: a last word; .*"),
        (standing.SILENT, r"COMET's worker said nothing for 5 seconds; .*"),
        (standing.RAISED, r"COMET model .* could not score: out of memory"),
        (standing.NO_NUMBER, r"COMET model .* could not score: the model gives scores that are no numbers; .*"),
    ],
)
def test_a_worker_that_is_lost_is_one_line_and_the_next_score_has_another(said: str, line: str, comet: Comet) -> None:
    assert comet.score(["Yes."], ["Ja."], ["Ja."]).system == 1
    assert re.fullmatch(line, refusal(comet, said))
    assert comet.score(["Yes."], ["Ja."], ["Ja."]).system == 1


def test_a_worker_that_was_killed_between_scores_is_replaced(comet: Comet) -> None:
    comet.score(["Yes."], ["Ja."], ["Ja."])
    process = comet._running()._process
    process.kill()
    process.wait()
    assert comet.score(["Yes."], ["Ja."], ["Ja."]).system == 1


def test_a_score_that_is_interrupted_leaves_no_stale_answer(comet: Comet, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = comet._running()

    def interrupted() -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comet.score(["Yes."], ["Nein."], ["Ja."])
    assert comet.score(["Yes."], ["Ja."], ["Ja."]).system == 1


def test_no_worker_outlives_its_parent(environment: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from scoring.comet import Comet\n"
        "comet = Comet(environment=pathlib.Path(sys.argv[1]))\n"
        "comet.score(['a'], ['b'], ['c'])\n"
        "print(comet._running()._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, environment], check=False, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == -9
    deadline = time.monotonic() + 30
    while _runs(int(done.stdout)):
        assert time.monotonic() < deadline


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class _Closing(io.StringIO):
    """A pipe that nobody reads any more once it has been written to so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def flush(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BrokenPipeError


def test_a_worker_says_that_it_is_alive_until_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(comet_worker, "_BEAT_SECONDS", 0.001)
    monkeypatch.setattr(os, "_exit", leave)
    out = _Closing(2)
    with pytest.raises(SystemExit):
        comet_worker.Answers(out).beat()
    assert out.getvalue().splitlines()[:2] == ['{"alive": true}'] * 2


def test_a_whole_environment_stays_and_one_of_something_else_is_left_alone(environment: Path, tmp_path: Path) -> None:
    said: list[str] = []
    before = sorted(environment.rglob("*"))
    build_comet_env(environment, "/no/such/python", said.append)
    assert sorted(environment.rglob("*")) == before
    assert "is there" in said[0]
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else; name an empty one by --folder or TIGHTFIT_COMET"):
        build_comet_env(tmp_path, None, said.append)
    assert (tmp_path / "thesis.tex").exists()


def test_what_pip_says_last_is_the_reason(tmp_path: Path) -> None:
    folder, python = tmp_path / "env", tmp_path / "python"
    pip = "#!/bin/sh\necho WARNING >&2\necho 'ERROR: No matching distribution found for numpy==1.26.4' >&2\nexit 1\n"
    python.write_text(
        f'#!/bin/sh\nmkdir -p "$4/bin"; touch "$4/pyvenv.cfg"\ncat > "$4/bin/python" <<END\n{pip}END\n'
        'chmod +x "$4/bin/python"\n'
    )
    python.chmod(0o755)
    for _ in range(2):  # what is half built is made again
        with pytest.raises(UserError) as raised:
            build_comet_env(folder, str(python), lambda _line: None)
        assert "could not be made: ERROR: No matching distribution found for numpy==1.26.4; " in str(raised.value)
        with pytest.raises(UserError, match="is not complete"):
            comet_python(folder)
    with pytest.raises(UserError, match="/no/such/python: No such file or directory; name another Python"):
        build_comet_env(folder, "/no/such/python", lambda _line: None)


def test_every_pin_is_exact() -> None:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert "unbabel-comet==2.2.7" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
