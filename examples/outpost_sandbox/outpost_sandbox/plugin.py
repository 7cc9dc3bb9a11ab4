"""What this package adds to Outpost; `outpost` imports it whenever it starts, so it is light."""

from dataclasses import dataclass

from outpost_core import Backend, OutpostOptions, hookimpl, option
from outpost_worker import FOLDER_CAPABILITIES


@dataclass(frozen=True, kw_only=True)
class SandboxOptions(OutpostOptions):
    sandbox: tuple[str, ...] = option(
        "the command that stands before the agent's", default=("setpriv", "--no-new-privs", "--")
    )


@hookimpl
def outpost_backends() -> Backend:
    return Backend(
        type="sandbox",
        options=SandboxOptions,
        build="outpost_sandbox.outpost:SandboxOutpost",
        summary="this machine, with a sandbox around each agent",
        capabilities=FOLDER_CAPABILITIES,
    )
