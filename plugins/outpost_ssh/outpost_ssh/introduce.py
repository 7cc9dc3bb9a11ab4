"""`outpost add ssh`: the host shows its key, which is pinned when it is believed, and is tried."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from outpost_ssh.connection.host import remote_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.backend import BuildContext, Dialogue
    from outpost_ssh.options import SshOptions


async def introduce(
    name: str, options: SshOptions, context: BuildContext, dialogue: Dialogue
) -> Mapping[str, Any]:
    """Connect to a host, and return the option `host_key` when its key has to be pinned.

    A key that the files of known hosts have is not pinned: they continue to speak for the host.

    Args:
        name: what the outpost will be called.
        options: how the host is reached.
        context: its `config_dir` is what relative paths are relative to.
        dialogue: who may be asked whether the key is the host's.

    Raises:
        UnreachableError: its key is not believed, has changed, or the login failed.
        UsageError: the options do not allow a connection.
    """
    from outpost_ssh.connection.hostkeys import UnknownHostKeyError

    try:
        await _try(name, options, context, dialogue)
    except UnknownHostKeyError as unknown:
        dialogue.say(f"{options.host} shows the host key {unknown.fingerprint}")
        question = f"Is that what the host itself says, and shall it be pinned for {name}?"
        if not dialogue.trust and not dialogue.confirm(question):
            raise
        await _try(name, replace(options, host_key=unknown.key), context, dialogue)
        return {"host_key": unknown.key}
    return {}


async def _try(name: str, options: SshOptions, context: BuildContext, dialogue: Dialogue) -> None:
    host = remote_host(name, options, context)
    try:
        began = time.monotonic()
        connection = await host.connection()
        took = (time.monotonic() - began) * 1000
        user = connection.get_extra_info("username")
        dialogue.say(f"logged in as {user}, {took:.0f} ms")
    finally:
        await host.aclose()
