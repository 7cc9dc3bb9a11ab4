"""From what a user says to an order: repositories, prompts, templates, secrets, limits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outpost_agents.presets import PRESETS
from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.names import RIG_CREDENTIAL
from outpost_core.types import Issue, Order
from outpost_manager.config import trusted
from outpost_manager.config.model import Defaults
from outpost_manager.config.spending import uncounted
from outpost_manager.orders.localgit import find_rig
from outpost_manager.orders.making import OrderRequest, Surroundings, make_order

URL = "https://example.com/x.git"
Make = Callable[..., Order]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = tmp_path / "repo"
    made.mkdir()
    git(made, "init", "-q")
    return made


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of orders: `around` for the surroundings, the rest is the request."""

    def build(around: dict[str, Any] | None = None, **said: Any) -> Order:
        surroundings: dict[str, Any] = {
            "defaults": Defaults(),
            "presets": PRESETS,
            "find_issue": lambda issue, rig: Issue(id=issue, title="Mend it"),
            "environ": {},
            "cwd": tmp_path,
            "attempt": 1,
            **(around or {}),
        }
        request = OrderRequest(**{"issue": "gt-1", **said})
        return make_order(request, Surroundings(**surroundings))

    return build


# --- what the agent may spend -------------------------------------------------------------------


def test_a_limit_is_the_orders_else_the_presets_else_the_defaults(make: Make) -> None:
    around = {"defaults": Defaults(max_agent_cost_usd=0.5)}
    own = replace(PRESETS["codex"], max_agent_cost_usd=2.0)
    said = {"rig": URL, "agent": "claude"}
    assert make(**said).limits.max_agent_cost_usd is None
    limited = make(around, **said)
    assert limited.limits.max_agent_cost_usd == 0.5
    at = limited.agent.argv.index("--max-budget-usd")
    assert limited.agent.argv[at + 1] == "0.500000"
    assert at < limited.agent.argv.index("--")
    assert make(around, max_agent_cost=0.25, **said).limits.max_agent_cost_usd == 0.25
    around["presets"] = {"codex": own}  # type: ignore[assignment]
    assert make(around, rig=URL, agent="codex").limits.max_agent_cost_usd == 2.0


def test_no_default_speaks_for_what_nobody_can_see(make: Make) -> None:
    """It would be called a limit, and nothing would keep it."""
    around = {"defaults": Defaults(max_agent_cost_usd=0.5)}
    command = {"no_rig": True, "command": ("true",)}
    terminal = {"rig": URL, "agent": "claude", "interactive": True}
    for said in (command, terminal):
        order = make(around, **said)
        assert order.limits.max_agent_cost_usd is None
        assert "--max-agent-cost" in uncounted(order)
        declared = make(around, max_agent_cost=0.25, **said)
        assert (declared.limits.max_agent_cost_usd, uncounted(declared)) == (0.25, "")
        assert make(around, max_agent_cost=0.0, **said).limits.max_agent_cost_usd == 0.0
    assert "claude on a terminal" in uncounted(make(around, **terminal))
    assert "--max-budget-usd" not in make(around, max_agent_cost=1.0, **terminal).agent.argv


@pytest.mark.parametrize("usd", [-0.01, float("nan"), float("inf"), 1e7, 0.0, 1e-9])
def test_a_limit_that_cannot_be_kept_is_refused(make: Make, usd: float) -> None:
    with pytest.raises(UsageError, match="max_agent_cost"):
        make(rig=URL, agent="claude", max_agent_cost=usd)


def test_agents_that_report_tokens_get_prices_and_the_configurations_replace_them(
    make: Make,
) -> None:
    assert make(rig=URL, agent="claude").agent.prices == {}
    table = make(rig=URL, agent="codex").agent.prices
    assert table["gpt-5"] == (1.25, 0.125, 10.0)
    assert "" in make(rig=URL, agent="gemini").agent.prices
    mine = {"gpt-5": (1.0, 1.0, 1.0)}
    prices = make({"prices": mine}, rig=URL, agent="codex").agent.prices
    assert {name for name in prices if name.startswith("gpt-5")} == {"gpt-5"}
    assert (prices["gpt-5"], prices["o3"]) == ((1.0, 1.0, 1.0), table["o3"])
    assert make({"prices": {"": (9.0, 9.0, 9.0)}}, rig=URL, agent="codex").agent.prices == {
        "": (9.0, 9.0, 9.0)
    }


# --- the repository -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rig",
    [URL, "ssh://git@example.com/x.git", "git@example.com:team/x.git", "host:x", "git://h/x"],
)
def test_urls_stay_as_they_are(make: Make, rig: str) -> None:
    assert make(rig=rig).rig == rig


@pytest.mark.parametrize(
    "rig",
    [
        "ext::sh -c true",
        "--upload-pack=x",
        "https://",
        "ftp://example.com/x",
        "-h:x",
        "host:-x",
        "http://-h/x",
        "nowhere",
        "a/b:c",
        "nul\0x",
        "https://example.com/a\nb",
    ],
)
def test_dangerous_and_missing_ones_are_refused(make: Make, rig: str) -> None:
    with pytest.raises(UsageError):
        make(rig=rig)


def test_a_path_becomes_absolute_in_each_way_to_write_it(make: Make, repo: Path) -> None:
    for way in ("repo", "./repo", str(repo), f"file://{repo}", "repo/../repo"):
        assert make(rig=way).rig == str(repo)
    named = repo.parent / "a:b"
    repo.rename(named)
    assert find_rig("a:b", repo.parent) == str(named), "a folder wins over host:path"


def test_a_bare_repository_is_one_and_a_folder_in_a_repository_names_it(
    make: Make, repo: Path
) -> None:
    bare = repo.parent / "bare.git"
    bare.mkdir()
    git(bare, "init", "-q", "--bare")
    assert make(rig="bare.git").rig == str(bare)
    (repo / "sub").mkdir()
    with pytest.raises(UsageError) as caught:
        make(rig="repo/sub")
    assert str(repo) in caught.value.hint


def test_without_a_word_it_is_the_repository_around(make: Make, repo: Path) -> None:
    (repo / "deep").mkdir()
    around = {"cwd": repo / "deep"}
    assert make(around, command=("true",)).rig == str(repo)
    git(repo, "remote", "add", "origin", URL)
    assert make(around, command=("true",)).rig == URL
    git(repo, "remote", "set-url", "origin", "../other.git")
    git(repo.parent, "clone", "-q", "--bare", str(repo), str(repo.parent / "other.git"))
    assert make(around).rig == str(repo.parent / "other.git"), "relative to its top"
    assert make(around, no_rig=True).rig is None


def test_outside_of_one_a_word_is_needed(make: Make) -> None:
    with pytest.raises(UsageError, match="no repository was named"):
        make()
    with pytest.raises(UsageError, match="no repository was named") as caught:
        make(command=("true",))
    assert "--no-rig" in caught.value.hint
    bare = make(command=("true",), no_rig=True)
    assert (bare.rig, bare.delivery, bare.base) == (None, None, None)
    assert make(no_rig=True).agent.name == "claude"
    with pytest.raises(UsageError, match="--no-rig"):
        make(rig=URL, no_rig=True)


def test_a_folder_whose_name_is_no_text_breaks_nothing(make: Make, tmp_path: Path) -> None:
    odd = Path(str(tmp_path) + "/caf\udce9")
    odd.mkdir()
    git(odd, "init", "-q")
    with pytest.raises(UsageError, match="control character"):
        make({"cwd": odd})


# --- secrets ------------------------------------------------------------------------------------


def test_the_password_of_a_url_travels_apart(make: Make) -> None:
    order = make(rig="https://me:p%40ss:w@example.com:8443/x.git")
    assert order.rig == "https://example.com:8443/x.git"
    assert order.secrets[RIG_CREDENTIAL] == "https://me:p%40ss:w@example.com:8443"
    for text in (repr(order), wire.dumps(order)):
        assert "ss:w" not in text
    other = make(rig="https://me:else@example.com:8443/x.git")
    assert wire.digest(order) == wire.digest(other), "a new password is the same order"


def test_the_password_of_an_origin_travels_apart_too(make: Make, repo: Path) -> None:
    git(repo, "remote", "add", "origin", "https://me:hunter22@example.com/x.git")
    seen = []
    around = {"cwd": repo, "find_issue": lambda issue, rig: seen.append(rig)}
    assert make(around, title="x").rig == seen[0] == "https://example.com/x.git"


def test_a_refused_url_does_not_show_its_password(make: Make) -> None:
    with pytest.raises(UsageError) as caught:
        make(rig="ftp://me:hunter22@example.com/x.git")
    assert "hunter22" not in str(caught.value)


def test_secrets_come_from_the_environment_or_are_missed_by_name(make: Make) -> None:
    around = {"environ": {"KEY": "hunter22"}}
    order = make(around, command=("true",), no_rig=True, secrets=("KEY",))
    assert dict(order.secrets) == {"KEY": "hunter22"}
    assert "hunter22" not in repr(order)
    with pytest.raises(UsageError, match="OTHER is not set"):
        make(around, command=("true",), no_rig=True, secrets=("OTHER",))
    with pytest.raises(UsageError, match="not the name"):
        make({"environ": {"A B": ""}}, command=("true",), no_rig=True, secrets=("A B",))


def test_an_agents_own_keys_and_pass_env_go_along_when_they_are_there(make: Make) -> None:
    environ = {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "o", "TOKEN": "t", "EMPTY": ""}
    around = {"environ": environ, "defaults": Defaults(pass_env=("TOKEN", "EMPTY", "ABSENT"))}
    assert dict(make(around, rig=URL).secrets) == {"ANTHROPIC_API_KEY": "k", "TOKEN": "t"}
    assert dict(make(around, rig=URL, agent="codex").secrets) == {
        "OPENAI_API_KEY": "o",
        "TOKEN": "t",
    }
    assert dict(make(around, command=("true",), no_rig=True).secrets) == {"TOKEN": "t"}, (
        "no agent, no key"
    )
    said = make(around, rig=URL, env={"ANTHROPIC_API_KEY": "mine"})
    assert "ANTHROPIC_API_KEY" not in said.secrets
    assert said.env == {"ANTHROPIC_API_KEY": "mine"}


def test_variables_are_checked(make: Make) -> None:
    for env in ({"A=B": "x"}, {"": "x"}, {"1A": "x"}, {"A": "nul\0"}, {"A": "\ud800"}):
        with pytest.raises(UsageError):
            make(command=("true",), no_rig=True, env=env)


# --- the issue, the prompt, templates -------------------------------------------------------------


KNOWN = Issue(
    id="gt-1", title="Fix {text} in {branch}", text="Body {id} {0}", priority=1, estimate=60.0,
    labels=("a",), kind="bug",
)  # fmt: skip


def test_what_is_known_of_an_issue_is_overridden_by_what_is_said(make: Make) -> None:
    around = {"find_issue": lambda issue, rig: KNOWN}
    assert make(around, rig=URL).issue == KNOWN
    said = make(
        around, rig=URL, title="", priority=0, estimate=0.0, labels=("b", "a"), kind="task"
    ).issue
    assert (said.title, said.priority, said.estimate) == ("", 0, 0.0)
    assert (said.labels, said.kind, said.text) == (("a", "b"), "task", KNOWN.text)


def test_a_tracker_that_fails_matters_only_when_nothing_else_says_what_to_do(make: Make) -> None:
    def broken(issue: str, rig: str | None) -> Issue | None:
        raise OutpostError("bd is broken")

    with pytest.raises(OutpostError, match="bd is broken"):
        make({"find_issue": broken}, rig=URL)
    assert make({"find_issue": broken}, rig=URL, prompt="go").prompt == "go"


def test_the_prompt_holds_the_issue_word_for_word(make: Make) -> None:
    prompt = make({"find_issue": lambda issue, rig: KNOWN}, rig=URL).prompt
    assert "Work on issue gt-1: Fix {text} in {branch}.\n" in prompt
    assert "\nBody {id} {0}\n" in prompt
    assert "on the branch outpost/gt-1." in prompt
    assert "Work on issue gt-1: Mend it.\n" in make(rig=URL).prompt


def test_prompts_come_from_one_place(make: Make, tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("von Datei ☃", encoding="utf-8")
    assert make(rig=URL, prompt_file=Path("p.md")).prompt == "von Datei ☃"
    assert make(rig=URL, prompt="").prompt == "", "said and empty"
    with pytest.raises(UsageError, match="both"):
        make(rig=URL, prompt="x", prompt_file=Path("p.md"))
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    for name in ("bad", "absent", ".", "nul\0"):
        with pytest.raises(UsageError, match="cannot be read"):
            make(rig=URL, prompt_file=Path(name))


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 of it"])
def test_what_no_program_can_be_given_is_refused(make: Make, text: str) -> None:
    for said in ({"prompt": text}, {"command": ("sh", text)}, {"pr_command": (text,)}):
        with pytest.raises(UsageError):
            make(rig=URL, **said)
    with pytest.raises(UsageError):
        make({"find_issue": lambda issue, rig: replace(KNOWN, text=text)}, rig=URL)


def test_undecodable_bytes_of_a_command_line_are_kept(make: Make) -> None:
    assert make(rig=URL, prompt="caf\udce9").prompt == "caf\udce9"


def test_branch_and_message_are_templates(make: Make) -> None:
    defaults = Defaults(commit_message="{title} ({issue}) {other}", branch="p/{issue}-{attempt}")
    around = {"defaults": defaults, "attempt": 3, "find_issue": lambda issue, rig: KNOWN}
    order = make(around, rig=URL)
    assert order.delivery is not None
    assert order.delivery.branch == "p/gt-1-3"
    assert order.delivery.message == "Fix {text} in {branch} (gt-1) {other}"
    plain = make(rig=URL, branch="mine").delivery
    assert plain is not None
    assert (plain.branch, plain.message) == ("mine", "gt-1: Mend it")
    for branch in ("-x", "a..b", "refs/heads/x", "HEAD", "a b", "x.lock"):
        with pytest.raises(UsageError, match="cannot be a branch"):
            make(rig=URL, branch=branch)


def test_the_agent_is_a_preset_or_a_command(make: Make) -> None:
    assert make(rig=URL, agent="codex").agent.argv[0] == "codex"
    assert make(rig=URL, command=("make", "fix"), interactive=True).agent.interactive
    with pytest.raises(UsageError, match="no agent named 'claud'"):
        make(rig=URL, agent="claud")
    with pytest.raises(UsageError, match="both"):
        make(rig=URL, agent="codex", command=("true",))
    for command in ((), ("",)):
        with pytest.raises(UsageError, match="empty"):
            make(rig=URL, command=command)


@pytest.mark.parametrize("issue", ["", "../x", "a/b", "-x", "x" * 97, "x.lock", "a b", "é"])
def test_an_issue_id_is_checked_first(make: Make, issue: str) -> None:
    with pytest.raises(UsageError, match="is not an issue id"):
        make(issue=issue, rig="nowhere")


# --- limits and attempts --------------------------------------------------------------------------


def test_limits_are_those_said_else_the_defaults(make: Make) -> None:
    defaults = Defaults(timeout=10.0, idle_timeout=5.0, grace=3.0, checkpoint_every=7.0, depth=2)
    limits = make({"defaults": defaults}, rig=URL).limits
    assert (limits.timeout, limits.idle_timeout, limits.grace) == (10.0, 5.0, 3.0)
    order = make(
        {"defaults": defaults}, rig=URL, timeout=1, grace=0, checkpoint_every=0, cpu=2, memory=9
    )
    limits = order.limits
    assert (limits.timeout, limits.grace, limits.checkpoint_every) == (1, 0, 0)
    assert (limits.cpu, limits.memory, order.depth) == (2, 9, 2)
    assert make({"defaults": defaults}, command=("true",), no_rig=True).depth is None, (
        "nothing to clone"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("timeout", "idle_timeout", "grace", "checkpoint_every", "cpu", "memory", "estimate"),
        "depth",
    ],
)
def test_a_limit_is_a_number(make: Make, name: str) -> None:
    for value in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"^{name} is"):
            make(rig=URL, **{name: value})


def test_no_depth_of_nothing(make: Make) -> None:
    with pytest.raises(UsageError, match="depth is 0"):
        make(rig=URL, depth=0)


def test_a_priority_is_one_of_five(make: Make) -> None:
    with pytest.raises(UsageError, match="P0 to P4"):
        make(rig=URL, priority=5)


def test_a_later_attempt_goes_on_where_there_is_a_repository(make: Make) -> None:
    around = {"attempt": 2, "resume": "refs/outpost/gt-1.1"}
    order = make(around, rig=URL)
    assert (order.worker, order.resume) == ("gt-1.2", "refs/outpost/gt-1.1")
    assert make(around, command=("true",), no_rig=True).resume is None


def test_the_same_words_are_the_same_order(make: Make) -> None:
    said = {"rig": URL, "labels": ("x",), "context": {"k": [1]}, "timeout": 60.0}
    assert wire.digest(make(**said)) == wire.digest(make(**said))
    assert wire.digest(make(**said)) == wire.digest(make(**{**said, "timeout": 60}))
    assert wire.digest(make(**said)) != wire.digest(make(**said, title="x"))


def test_errors_of_others_pass_as_they_are(make: Make) -> None:
    def nobody(issue: str, rig: str | None) -> Issue | None:
        raise NotFoundError("no such issue")

    with pytest.raises(NotFoundError):
        make({"find_issue": nobody}, rig=URL)


def test_an_agent_is_not_paid_to_be_told_nothing(make: Make) -> None:
    nobody: dict[str, Any] = {"find_issue": lambda issue, rig: None}
    with pytest.raises(UsageError, match="nothing to tell the agent") as caught:
        make(nobody, rig=URL)
    assert "--title" in caught.value.hint
    for said in ({"title": "Mend it"}, {"prompt": "Mend it"}, {"command": ("make", "hint")}):
        assert make(nobody, rig=URL, **said).issue.id == "gt-1"


def _half_known(issue: str, rig: str | None) -> Issue | None:
    raise NotFoundError(f"{issue} is not a whole id; bd knows gt-1x")


@pytest.mark.parametrize("known", [_half_known, lambda issue, rig: None])
def test_an_issue_that_nobody_knows_is_refused_unless_the_agent_is_told_something(
    make: Make, known: Callable[[str, str | None], Issue | None]
) -> None:
    around = {"find_issue": known}
    asked: tuple[dict[str, Any], ...] = (
        {},
        {"agent": "codex"},
        {"command": ("claude", "-p", "{prompt}")},
        {"command": ("run", "--file={prompt_file}")},
    )
    for said in asked:
        with pytest.raises(OutpostError):
            make(around, rig=URL, **said)
        assert make(around, rig=URL, title="Mend it", **said).issue.title == "Mend it"
        assert make(around, rig=URL, prompt="Mend it", **said).prompt == "Mend it"
    assert make(around, rig=URL, command=("make", "lint")).issue == Issue(id="gt-1")


def test_the_folders_of_a_town_name_the_rig_and_not_the_town(make: Make, repo: Path) -> None:
    (repo / "mayor").mkdir()
    (repo / "mayor" / "town.json").write_text("{}")
    (repo / "mayor" / "rigs.json").write_text(
        json.dumps({"rigs": {"widgets": {"git_url": URL, "beads": {"prefix": "wi"}}}})
    )
    (repo / "widgets").mkdir()
    environ = {"XDG_CONFIG_HOME": str(repo.parent / "config")}
    with pytest.raises(UsageError, match="you have not trusted it"):
        make({"cwd": repo / "widgets", "environ": environ})
    trusted.trust(trusted.read_found(repo / "mayor" / "rigs.json"), environ)
    assert make({"cwd": repo / "widgets", "environ": environ}).rig == URL
    assert make({"cwd": repo, "environ": environ}, issue="wi-7").rig == URL
    with pytest.raises(UsageError, match="own repository is no rig"):
        make({"cwd": repo, "environ": environ}, issue="gt-7")
    assert make({"cwd": repo}, issue="gt-7", rig=str(repo)).rig == str(repo)


def test_a_model_and_further_arguments_reach_a_preset_and_no_bare_command(tmp_path: Path) -> None:
    around = Surroundings(
        defaults=Defaults(), presets=PRESETS, find_issue=lambda *_: None, environ={},
        cwd=tmp_path, attempt=1,
    )  # fmt: skip
    more = {"issue": "x-1", "no_rig": True, "title": "t", "model": "m", "agent_args": ("-v",)}
    argv = make_order(OrderRequest(**more), around).agent.argv  # type: ignore[arg-type]
    at = argv.index("--")
    assert argv[at - 3 : at] == ("--model", "m", "-v")
    with pytest.raises(UsageError, match="agents with a preset"):
        make_order(OrderRequest(**more, command=("true",)), around)  # type: ignore[arg-type]
