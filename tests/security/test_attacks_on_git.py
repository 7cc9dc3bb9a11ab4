"""Agents that turn the repository against whoever brings their work home."""

from __future__ import annotations

import pytest

FILTER = """
with open(".git/config", "a") as file:
    file.write(CONFIG)
os.makedirs(".git/info", exist_ok=True)
for name in (".git/info/attributes", ".gitattributes"):
    with open(name, "w") as file:
        file.write("* filter=x diff=x merge=x\\n")
open("b", "w").write("new")
did("planted")
"""
CONFIGS = {
    "staging": (
        '[filter "x"]\n\tclean = PROGRAM\n\tprocess = PROGRAM\n\trequired = true\n'
        "[core]\n\tfsmonitor = PROGRAM\n[include]\n\tpath = LOOT/included\n"
    ),
    "pushing": (
        "[core]\n\tsshCommand = PROGRAM\n\taskPass = PROGRAM\n\tgitProxy = PROGRAM\n"
        '[credential]\n\thelper = "!PROGRAM"\n[protocol]\n\tallow = always\n'
        '[remote "origin"]\n\treceivepack = PROGRAM\n\tuploadpack = PROGRAM\n'
        '[remote "outpost"]\n\treceivepack = PROGRAM\n'
    ),
    "another address": (
        '[protocol]\n\tallow = always\n[url "ext::PROGRAM "]\n\tinsteadOf = RIG\n'
        "\tpushInsteadOf = RIG\n[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = PROGRAM\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_a_repository_configures_never_runs(desk, kind):
    """Not when it is delivered, not when it is rescued, and in `clean` least of all."""
    program = desk.trap("program")
    (desk.loot / "included").write_text(f'[filter "x"]\n\tclean = {program}\n')
    config = CONFIGS[kind].replace("PROGRAM", str(program)).replace("RIG", str(desk.rig))
    plant = f"CONFIG = {config.replace('LOOT', str(desk.loot))!r}\n" + FILTER
    said = desk.spawn("f-1", plant)
    desk.nothing_ran()
    if " done at" in said:
        assert desk.tip("outpost/f-1"), said
    desk.spawn("f-2", plant + "sys.exit(3)")
    desk.nothing_ran()
    with (desk.folder_of("f-2.1") / "work" / "b").open("a") as later:
        later.write("later\n")
    desk.run("clean", "f-1.1", "f-2.1")
    desk.nothing_ran()
    assert desk.said("planted")


def test_hooks_never_run(desk):
    program = desk.trap("program")
    names = "pre-commit post-commit pre-push post-checkout reference-transaction post-index-change"
    code = f"""
import shutil
os.makedirs(".git/hooks", exist_ok=True)
for name in {names!r}.split():
    shutil.copy({str(program)!r}, ".git/hooks/" + name)
open("b", "w").write("new")
did("planted")
"""
    desk.spawn("h-1", code)
    desk.spawn("h-2", code + "sys.exit(3)")
    desk.run("clean", "h-1.1", "h-2.1", "--force")
    desk.nothing_ran()
    assert desk.said("planted")


@pytest.mark.parametrize("code", [0, 3], ids=["done", "failed"])
def test_a_working_tree_that_became_a_link_takes_nothing_of_its_user(desk, code):
    private = desk.home / "private"
    private.mkdir()
    (private / "id").write_text("secret-key\n")
    desk.spawn(
        "l-1",
        f"""
def swap():
    os.chdir("/")
    os.rename(work, work + ".old")
    os.symlink({str(private)!r}, work)
tried("swapped", swap)
sys.exit({code})
""",
    )
    desk.made("swapped")
    desk.run("clean", "l-1.1")
    assert "secret-key" not in desk.pushed()
    assert [path.name for path in private.iterdir()] == ["id"]


LINKS = {
    "a link": 'subprocess.run(["rm", "-rf", ".git"]); os.symlink(MINE + "/.git", ".git")',
    "its common folder": 'open(".git/commondir", "w").write(MINE + "/.git")',
    "another tree": 'subprocess.run(["git", "config", "core.worktree", MINE])',
}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS)
def test_a_repository_that_is_the_users_own_moves_nothing(desk, kind):
    mine = desk.home / "mine"
    desk.git("clone", "-q", str(desk.rig), str(mine), at=desk.home)
    (mine / "half").write_text("secret-half\n")
    desk.git("add", "half", at=mine)
    refs = desk.git("for-each-ref", at=mine)
    index = (mine / ".git" / "index").read_bytes()
    for issue, code in (("m-1", 0), ("m-2", 3)):
        desk.spawn(issue, f"MINE = {str(mine)!r}\n{LINKS[kind]}\n"
                   f"open('z', 'w').write('z')\ndid('swapped')\nsys.exit({code})")  # fmt: skip
        desk.run("clean", f"{issue}.1")
    assert desk.said("swapped")
    assert desk.git("for-each-ref", at=mine) == refs
    assert (mine / ".git" / "index").read_bytes() == index
    assert not (mine / "z").exists()
    assert "secret-half" not in desk.pushed()


def test_done_means_that_the_rig_has_it_whatever_was_written_into_the_mirror(desk):
    said = desk.spawn("p-1", """
evil = os.path.join(loot, "evil.git")
git("init", "-q", "--bare", evil)
git("config", "remote.outpost.pushurl", evil)
objects = open(".git/objects/info/alternates").read().split()[0]
mirror = os.path.dirname(objects)
def rewrite():
    with open(os.path.join(mirror, "config"), "a") as file:
        file.write('[url "%s"]\\n\\tinsteadOf = %s\\n' % (evil, os.environ["RIG"]))
tried("rewritten", rewrite)
open("y", "w").write("x")
""")  # fmt: skip
    desk.made("rewritten")
    there = desk.tip("outpost/p-1")
    assert (" done at" in said) == bool(there), said
    after = desk.spawn("p-2", "open('after', 'w').write('x')")
    assert " done at" in after, after
    assert desk.tip("outpost/p-2"), "the next worker has a mirror that leads elsewhere"


@pytest.mark.parametrize("path", ["./bin:", ":", "bin:.:"])
def test_programs_of_the_tree_never_run_for_git_ssh_or_their_kind(desk, path):
    """A PATH that names a folder from where one is, as of node_modules/.bin, or has an empty part.

    What we run ourselves runs in the tree, so that git would be the agent's.
    """
    program = desk.trap("program")
    desk.env["PATH"] = path + desk.env["PATH"]
    code = f"""
import shutil
os.makedirs("bin", exist_ok=True)
for name in ("git", "git-lfs", "ssh", "sh", "ps", "bd", "gh", "tmux"):
    for folder in ("bin", "."):
        shutil.copy({str(program)!r}, folder + "/" + name)
did("planted")
"""
    assert " done at" in desk.spawn("path-1", code)
    assert desk.tip("outpost/path-1")
    desk.spawn("path-2", code + "sys.exit(3)")
    (desk.folder_of("path-2.1") / "work" / "later").write_text("1\n")
    desk.run("review", "path-1")
    desk.run("clean", "path-1.1", "path-2.1")
    desk.nothing_ran()
    assert desk.said("planted")
