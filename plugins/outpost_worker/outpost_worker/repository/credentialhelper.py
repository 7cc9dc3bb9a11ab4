"""The credential helper that git asks for a login: a program of its own, with no imports of ours.

`python -I -S credentialhelper.py LOGIN get`, with the question on stdin as git-credential(1) says.
It answers for the hosts that the login is for, and only over the scheme that they have; it keeps
and forgets nothing (`store`, `erase`).
"""

import json
import sys

#: Bytes that a login and a question may have.
_MOST = 1 << 20


def main(path: str, verb: str) -> None:
    """Answer one question on stdout; nothing where the login is for another host.

    Args:
        path: the login.
        verb: what git wants.
    """
    if verb != "get":
        return
    asked = dict(line.partition("=")[::2] for line in sys.stdin.read(_MOST).splitlines())
    with open(path, encoding="utf-8") as file:
        login = json.loads(file.read(_MOST))
    host = f"{asked.get('protocol', '')}://{asked.get('host', '').lower()}"
    if host not in login.get("hosts", []) or not login.get("password"):
        return
    user = asked.get("username") or login["username"]
    sys.stdout.write(f"username={user}\npassword={login['password']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
