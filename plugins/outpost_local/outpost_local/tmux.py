"""The tmux of this machine's workers, asked through libtmux."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_shared import terminfo
from outpost_worker.console import tmux
from outpost_worker.console.tmux import Answer, TmuxError

if TYPE_CHECKING:
    from libtmux import Server

#: Held while `TERM` is another one.
_TERM: Final = threading.Lock()


class Tmux(tmux.Tmux):
    """One private tmux server.

    Args:
        root: the state root; each has its own server.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._server: Server | None = None

    def asked(self, *words: str) -> Answer:
        """Run one tmux command; libtmux gives it our environment, and our terminal to look at.

        It starts no server that way: where one is started, our whole environment would stay
        readable as long as it lives.

        Raises:
            TmuxError: there is no tmux, or no libtmux.
        """
        server = self._server_or_new()
        said, known = os.environ.get("TERM"), terminfo.known(os.environ)
        if said in (None, known):
            return self._through(server, *words)
        with _TERM:
            os.environ["TERM"] = known
            try:
                return self._through(server, *words)
            finally:
                os.environ["TERM"] = str(said)

    def _through(self, server: Server, *words: str) -> Answer:
        answer = server.cmd(*words)
        code = answer.returncode
        return Answer(1 if code is None else code, [*answer.stdout])

    def _server_or_new(self) -> Server:
        tmux.program()
        if self._server is None:
            try:
                from libtmux import Server
            except ImportError as error:
                raise TmuxError(
                    f"libtmux cannot be imported: {error}", hint="pip install libtmux"
                ) from error
            self._server = Server(socket_path=self.socket, config_file=os.devnull)
        return self._server
