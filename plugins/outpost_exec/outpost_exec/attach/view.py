"""The far half of `outpost attach`: becomes the program that shows a worker on this terminal.

It reads one line, `{"argv": […], "nonce": "…", "env": {…}}`, from its terminal, which was made
without echo for that. It answers with a mark, and begins once an empty line says that the mark
was seen. The near half sends this file itself as source, so it runs on whatever Python 3 there
is: no syntax and no annotation that an old one would not take.
"""

import json
import os
import re
import shutil
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Goes, with the nonce, before the program's first byte: what comes earlier is a login's noise.
MARK = "\x02outpost-view "
END = "\x03"
#: Exit code for a line that is not what it should be.
REFUSED = 64


def main() -> None:
    """Read the line, and become what it asks for."""
    try:
        asked = json.loads(read_line(0).decode("utf-8"))
        argv, nonce, env = asked["argv"], asked["nonce"], asked["env"]
    except (ValueError, TypeError, KeyError, RecursionError):
        refuse("what came is not a request for a viewer")
    if not (isinstance(argv, list) and argv and all(is_text(part) for part in argv)):
        refuse("a viewer is a list of words")
    if not (isinstance(nonce, str) and re.match("[0-9a-f]{16,64}$", nonce)):
        refuse("a nonce is hexadecimal")
    if not (isinstance(env, dict) and all(is_text(value) for value in env.values())):
        refuse("an environment is a set of words")
    if shutil.which(argv[0]) is None:
        refuse(ascii(argv[0])[1:-1] + " is not installed")
    prepare(os.environ, env)
    silent(0)
    os.write(1, (MARK + nonce + END).encode("ascii"))
    # tmux discards what its terminal has not passed on yet when it starts (TCOFLUSH): the mark
    # must have arrived before
    read_line(0)
    sane(0)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell in between is the point
    except OSError as error:
        refuse(ascii(argv[0])[1:-1] + " cannot be run: " + str(error.strerror))


def is_text(part: object) -> bool:
    """Whether a word can be an argument."""
    return isinstance(part, str) and "\0" not in part


def read_line(fd: int) -> bytes:
    """Read up to a newline, and not one byte more: the rest is what a person types."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def refuse(why: str) -> "NoReturn":
    """End, saying why."""
    sys.stderr.write("outpost: " + why + "\n")
    sys.stderr.flush()
    os._exit(REFUSED)


def prepare(environ: "os._Environ[str]", env: "dict[str, str]") -> None:
    """Make the environment one in which the program takes this terminal for what it is.

    Args:
        environ: the login's environment, which is changed.
        env: what the near side says of its terminal.
    """
    for name in list(environ):
        # Left by whoever started sshd from within a tmux: ours would refuse to nest.
        if name.startswith("TMUX") and name != "TMUX_TMPDIR":
            del environ[name]
    for name in ("TERM", "COLORTERM"):
        if env.get(name):
            environ[name] = env[name]
    # The first that is set counts; without UTF-8 in it, tmux would show `_` for every accent.
    spoken = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    if env.get("LC_CTYPE") and not re.search("utf-?8", spoken, re.IGNORECASE):
        environ.pop("LC_ALL", None)
        environ["LC_CTYPE"] = env["LC_CTYPE"]
    environ["TERM"] = known(environ.get("TERM") or "dumb")


def known(term: str) -> str:
    """Return `term` if this machine knows it, else the nearest that it knows."""
    inside = term.startswith(("screen", "tmux"))
    nearest = ["screen-256color", "screen"] if inside else []
    for name in [term, *nearest, "xterm-256color", "xterm", "vt100"]:
        if re.match("[A-Za-z0-9][A-Za-z0-9+._-]*$", name) and is_known(name):
            return name
    return term


def is_known(term: str) -> bool:
    """Whether there is a description of that terminal; True when nobody can say."""
    try:
        import curses
    except ImportError:
        if shutil.which("infocmp") is None:
            return True
        import subprocess

        quiet = subprocess.DEVNULL
        return subprocess.call(["infocmp", term], stdout=quiet, stderr=quiet) == 0
    try:
        curses.setupterm(term, 1)
    except curses.error:
        return False
    return True


def silent(fd: int) -> None:
    """Let the terminal echo nothing, also where the server ignored the modes asked for."""
    mode = termios.tcgetattr(fd)
    mode[3] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def sane(fd: int) -> None:
    """Undo what kept the line from being shown and cut: the program finds a usual terminal."""
    modes = termios.tcgetattr(fd)
    modes[0] |= termios.BRKINT | termios.ICRNL | termios.IXON
    modes[1] |= termios.OPOST | termios.ONLCR
    modes[3] |= termios.ISIG | termios.ICANON | termios.IEXTEN
    modes[3] |= termios.ECHO | termios.ECHOE | termios.ECHOK
    termios.tcsetattr(fd, termios.TCSANOW, modes)


if __name__ == "__main__":
    main()
