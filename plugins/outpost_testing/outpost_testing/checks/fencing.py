"""Security: an outpost that says that its agents have a fence keeps its word."""

from __future__ import annotations

import secrets

from outpost_testing.checks.hostile import hostile
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, Trial, expect

#: Tries what no agent with a fence can do, and notes what it could; `OTHER` is another's tree.
_TRIES = """
other = sys.argv[1]
could = []

def tried(what, act):
    try:
        if act() is not False:
            could.append(what)
    except OSError:
        pass

def write(path):
    with open(path, "w") as file:
        file.write("planted")

def looks(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return os.environ["CF_OTHER"].encode() in file.read() and int(pid) != os.getpid()

above = os.path.dirname(os.getcwd())
tried("read a file of another worker", lambda: open(os.path.join(other, "here")).read())
tried("write into another worker's tree", lambda: write(os.path.join(other, "planted")))
tried("rename another worker's tree", lambda: os.rename(other, other + ".away"))
tried("see another worker", lambda: os.listdir(os.path.dirname(other)))
tried("write beside its own tree", lambda: write(os.path.join(above, "planted")))
tried("rename its own tree", lambda: os.rename(os.getcwd(), os.getcwd() + ".away"))
for name in names:
    tried(f"read {name}", lambda: open(os.path.join(above, name)).read())
for pid in os.listdir("/proc"):
    if pid.isdigit():
        tried("look into a process of another worker", lambda: looks(pid))
write("mine")
with open(os.path.join(there, "could"), "w") as file:
    file.write("; ".join(dict.fromkeys(could)) + "\\n")
"""


@check("security", needs=("shared",))
async def fence_keeps_its_word(trial: Trial) -> None:
    """Where a result says that its agent had a fence, the agent could neither see nor change
    another worker, nor what is kept of itself, and could do its own work.
    """
    mark = f"other-{secrets.token_hex(8)}"
    other = trial.sh(f"echo precious >here; pwd >$CF_FOLDER/other; {HOLD}", env={"CF_MARK": mark})
    await trial.spawn(other)
    tree = (await trial.seen("other")).strip()
    order = hostile(trial, _TRIES, tree, env={"CF_OTHER": f"CF_MARK={mark}"})
    result = await trial.end(order)
    could = (await trial.seen("could")).strip()
    trial.release()
    expect(result.exit_code == 0, f"Its own work could not be done (exit {result.exit_code}).")
    if not result.fence or result.fence.startswith(("off", "none")):
        trial.notes.append(f"no fence is claimed: {result.fence or 'nothing is said'}")
        return
    expect(not could, f"It had a fence ({result.fence}), and its agent could {could}.")
