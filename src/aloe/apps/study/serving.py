"""Run the study's server in this process, until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from aloe.apps.study.store import Store
from aloe.core.errors import UserError


def serve_study(
    db: Path, secret: str, *, host: str, port: int, invited_only: bool, ready: Callable[[str], None]
) -> None:
    """Serve a study's file; `ready` is told the address once connections are taken.

    No access log is written: it would hold network addresses and personal links.

    Raises:
        UserError: no study, a short secret, an address that is taken, or the extra `study` is not installed.
    """
    try:
        import uvicorn

        from aloe.apps.study.server import create_app
    except ImportError as error:
        raise UserError('The study\'s server needs FastAPI and uvicorn: pip install "aloe-vit[study]".') from error
    if len(secret) < 16:
        raise UserError("The secret of the admin page needs at least 16 characters; unset it to have one made up.")
    store = Store(db)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        store.close()
        raise UserError(f"Nothing can listen at {host}:{port} ({error.strerror}); try another --port.") from error
    # asyncio does so only for sockets that name their protocol; without it a page waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    named = f"[{host}]" if ":" in host else host
    ready(f"http://{named}:{listening.getsockname()[1]}")
    app = create_app(store, secret, invited_only=invited_only)
    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, timeout_keep_alive=30)
    uvicorn.Server(config).run(sockets=[listening])
