"""Workers of this machine, each agent in a sandbox."""

from collections.abc import Sequence

from outpost_core import Order
from outpost_sandbox.plugin import SandboxOptions
from outpost_worker import FolderOutpost


class SandboxOutpost(FolderOutpost):
    type = "sandbox"
    options: SandboxOptions

    def wrap(self, order: Order) -> Sequence[str]:
        return self.options.sandbox
