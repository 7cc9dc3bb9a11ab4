"""Workers whose agents attack the mirror of their rig: `done` is true, the next one starts well.

Each attack runs behind the fence of this machine, where it finds nothing to write to, and without
any, where what it writes is not believed.
"""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import git

#: `$M` is the mirror, `$EVIL` a bare repository of the attacker with another `main`.
BEGIN = """
set -u
M=$(cat .git/objects/info/alternates); M=${M%/objects}; L=${M%.git}.lock
EVIL=$LOOT/evil.git
git clone -q --bare "$RIG" "$EVIL" 2>/dev/null
git -C "$LOOT" init -q e; cd "$LOOT/e"
git -c user.name=e -c user.email=e@e commit -q --allow-empty -m evil
git push -q -f "$EVIL" HEAD:main; E=$(git rev-parse HEAD); cd "$OLDPWD"
forge() {
  cp -r "$EVIL"/objects/?? "$M/objects/"
  F='%s\\nref: refs/heads/main\\tHEAD\\n%s\\tHEAD\\n%s\\trefs/heads/main\\n'
  printf "$F" "$1" "$E" "$E" >"$M/outpost-snapshot"
  echo "$E" >"$M/outpost-have"; echo "$E refs/heads/main" >"$M/packed-refs"; rm -f "$M/../exposed"
}
"""
ATTACKS = {
    "instead": 'git config -f "$M/config" "url.$EVIL.insteadOf" "$RIG"',
    "included": 'git config -f "$LOOT/more" "url.$EVIL.insteadOf" "$RIG";'
    ' git config -f "$M/config" include.path "$LOOT/more"',
    "snapshot": "forge 99999999999999999",
    "while-one-waits": "(setsid sh -c 'exec 9<>\"$1\"; flock 9; sleep 1' - \"$L\" &) 2>/dev/null;"
    " forge 99999999999999999",
    "fifos": 'for f in config HEAD packed-refs shallow outpost-snapshot outpost-have outpost-sound;'
    ' do rm -f "$M/$f"; mkfifo "$M/$f"; done; rm -f "$L"; mkfifo "$L"',
    "lock-is-a-link": 'rm -f "$L"; ln -s "$LOOT/precious" "$L"',
    "mirror-is-a-link": 'git config -f "$EVIL/config" "url.$EVIL.insteadOf" "$RIG";'
    ' mv "$M" "$M.away"; ln -s "$EVIL" "$M"',
    "objects-are-a-link": 'mv "$M/objects" "$LOOT/objects"; ln -s "$LOOT/objects" "$M/objects"',
    "alternates": 'mkdir -p "$M/objects/info"; echo "$EVIL/objects" >"$M/objects/info/alternates"',
    "other-objects": """python3 - "$M" <<'END'
import os, pathlib, subprocess, sys, zlib
m = pathlib.Path(sys.argv[1]); away = m / "away"
blob = subprocess.check_output(["git", "rev-parse", "HEAD:one"], text=True).strip()
away.mkdir()
for p in list((m / "objects/pack").iterdir()): p.rename(away / p.name)
for p in away.glob("*.pack"):
    subprocess.run(["git", "unpack-objects", "-q"], cwd=m, stdin=p.open("rb"))
f = m / "objects" / blob[:2] / blob[2:]; f.chmod(0o600)
f.write_bytes(zlib.compress(b"blob 5\\0evil\\n"))
END""",
    "all-gone": 'rm -rf "$M"',
}  # fmt: skip


@pytest.fixture
def loot(rig, outpost):
    made = outpost.folder / "loot"
    made.mkdir()
    (made / "precious").write_text("precious\n")
    return made


def spawn(rig, loot, issue, script):
    words = ("--rig", str(rig.bare), "--env", f"LOOT={loot}", "--env", f"RIG={rig.bare}")
    done = rig("spawn", issue, *words, "--wait", "--", "sh", "-c", script)
    shown = json.loads(rig("show", issue, "--json").stdout)
    return done, shown


@pytest.mark.parametrize("fence", ["auto", "off"])
@pytest.mark.parametrize("name", ATTACKS)
def test_done_is_true_and_the_next_worker_starts_well(rig, outpost, loot, name, fence):
    outpost.config.write_text(
        "outposts:\n  - {name: local, type: local, mode: process,"
        f" fence: {fence}, fence_write: [{loot}]}}\n"
    )
    script = BEGIN + ATTACKS[name] + "\necho mine >mine; exit 0"
    done, shown = spawn(rig, loot, "p-1", script)
    said = json.dumps(shown)
    branch = git("for-each-ref", "--format=%(refname:short)", "refs/heads", cwd=rig.bare).split()
    delivered = [name for name in branch if name.endswith("p-1")]
    if '"done"' in said:
        assert delivered, done.stderr + said
        assert git("show", f"{delivered[0]}:mine", cwd=rig.bare) == "mine"
    else:
        assert name in ("all-gone", "objects-are-a-link", "mirror-is-a-link"), said
        assert not delivered
    script = 'test "$(cat one)" = 1 && git log --format=%s | grep -qx one && echo more >more'
    done, shown = spawn(rig, loot, "p-2", script)
    assert done.returncode == 0, done.stderr + json.dumps(shown)
    delivered = git("for-each-ref", "--format=%(refname:short)", "refs/heads", cwd=rig.bare).split()
    (second,) = [name for name in delivered if name.endswith("p-2")]
    assert git("show", f"{second}:more", cwd=rig.bare) == "more"
    assert git("rev-parse", f"{second}~1", cwd=rig.bare) == git("rev-parse", "main", cwd=rig.bare)
    assert (loot / "precious").read_text() == "precious\n"
    exposed = [*outpost.state.glob("outposts/*/rigs/exposed")]
    assert bool(exposed) == (fence == "off")


def test_a_push_that_the_users_own_settings_lead_elsewhere_since_is_not_done(rig, outpost, loot):
    outpost.config.write_text(
        "outposts:\n  - {name: local, type: local, mode: process, fence: off}\n"
    )
    script = BEGIN + 'git config --global "url.$EVIL.insteadOf" "$RIG"; echo mine >mine'
    done, shown = spawn(rig, loot, "p-1", script)
    assert "verify_failed" in json.dumps(shown)
    assert "went to" in done.stderr + json.dumps(shown)
    assert "p-1" not in git("for-each-ref", cwd=rig.bare)


def test_an_agent_without_a_fence_is_remembered_whatever_it_removes(rig, outpost, loot):
    outpost.config.write_text(
        "outposts:\n  - {name: local, type: local, mode: process, fence: off}\n"
    )
    for kill in ("", "kill -9 $PPID; sleep 60"):
        mark = next(iter(outpost.state.glob("outposts/*/rigs/exposed")), None)
        if mark is not None:
            mark.unlink()
        script = f'rm -f "$OUTPOST_WORKER_DIR"/../../../rigs/exposed; {kill}'
        rig("spawn", "--no-rig", "x" if kill else "y", "--wait", "--", "sh", "-c", script)
        assert [*outpost.state.glob("outposts/*/rigs/exposed")], kill
