"""``launch.py dashboard``: Optuna's dashboard on a study's storage, with its artifacts."""

from __future__ import annotations

import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna_dashboard import wsgi

from search.artifacts import artifact_store
from search.study import stored_study
from space.errors import UserError

_MOST_PORT = 65_535


@dataclass(frozen=True)
class DashboardSettings:
    """The options of ``launch.py dashboard``; `storage` is the URL of a database, None for the study's own file."""

    study: str
    storage: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    root: Path = Path("studies")

    @property
    def folder(self) -> Path:
        return self.root / self.study


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A browser asks for several things at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Requests are not for the user of this program."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def dashboard_server(settings: DashboardSettings) -> Iterator[tuple[WSGIServer, str]]:
    """A server that listens, and the study's address; port 0 takes a free one.

    Raises UserError where the study is not there, or where nobody can listen at host and port.
    """
    if not 0 <= settings.port <= _MOST_PORT:
        raise UserError(f"--port {settings.port}: a port is a number from 0 to {_MOST_PORT}")
    with stored_study(settings.root, settings.study, settings.storage, "--study") as study:
        app = dashboard_app(study, settings.folder)
        try:
            server = make_server(settings.host, settings.port, app, server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            raise UserError(
                f"--host {settings.host} --port {settings.port}: {error.strerror or error}; give another --port"
            ) from error
        with server:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield server, f"http://{host}:{server.server_port}/dashboard/studies/{study._study_id}"


def dashboard_app(study: optuna.Study, folder: Path) -> Any:
    """The dashboard as a WSGI application, over everything in the study's storage, with the artifacts of the study."""
    return wsgi(study._storage, artifact_store=artifact_store(folder))
