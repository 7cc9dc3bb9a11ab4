from __future__ import annotations

from dataclasses import dataclass

import pytest

from outpost_core.backend import Backend, OutpostOptions, option
from outpost_core.hookspecs import hookimpl
from outpost_testing.fake import FakeOptions, FakeOutpost


@dataclass(frozen=True, kw_only=True)
class Needy(OutpostOptions):
    price: float = option("what it costs", default=0.0)
    host: str = option("where it is", metavar="HOST")
    words: tuple[str, ...] = option("some words", metavar="WORD")


def test_add_shows_the_options_of_a_type(outpost):
    assert "fake" in outpost.ok("add", "--help")
    text = outpost.ok("add", "fake", "--help")
    for flag in ("--max-workers", "--price", "--run-for", "--capabilities", "--cost-cap-hourly"):
        assert flag in text
    assert "DURATION" in text
    assert "[default: 0.0]" in text


def test_add_keeps_comments_and_is_there(outpost):
    outpost.config.write_text("# ours\noutposts:\n  - {name: here, type: fake}  # the first\n")
    words = ("fake", "third", "--max-workers", "2", "--run-for", "90s", "--capabilities", "rig")
    said = outpost.json("add", *words, "--capabilities", "clean")
    assert said == {"added": "third", "type": "fake", "file": str(outpost.config)}
    text = outpost.config.read_text()
    assert text.startswith("# ours\n")
    assert "# the first" in text
    values = {v["key"]: v["value"] for v in outpost.json("config", "show")["values"]}
    assert values["outposts.third.max_workers"] == 2
    assert values["outposts.third.run_for"] == "1m30s"
    assert values["outposts.third.capabilities"] == ["rig", "clean"]


def test_add_makes_the_file(outpost):
    outpost.config.unlink()
    outpost.ok("add", "fake", "first")
    assert [o["name"] for o in outpost.json("list")["outposts"]] == ["local", "first"]


def test_add_makes_the_file_that_the_environment_names(outpost, monkeypatch, tmp_path):
    monkeypatch.setenv("OUTPOST_CONFIG", "~/new/outposts.yaml")
    process = outpost.start("add", "fake", "first", config=False)
    assert process.wait(timeout=30) == 0
    assert "first" in (tmp_path / "new" / "outposts.yaml").read_text()


def test_add_refuses_what_is_wrong_and_changes_nothing(outpost):
    before = outpost.config.read_text()
    for words in (
        ("fake", "here"),
        ("fake", "a b"),
        ("fake", "new", "--run-for", "soon"),
        ("fake", "new", "--exit-code", "300"),
        ("fake", "new", "--max-workers", "many"),
        ("fake", "new", "--nope", "1"),
        ("fakee", "new"),
        ("fake",),
    ):
        error = outpost.json("add", *words, code=2)["error"]
        assert error["message"], words
    assert outpost.config.read_text() == before


def test_add_of_a_missing_type_says_how_to_get_it(outpost):
    for kind in ("ssh", "k8s"):
        hint = outpost.json("add", kind, "c", code=2)["error"]["hint"]
        assert hint == f"in a clone of Outpost: pip install ./plugins/outpost_{kind}"


def test_remove(outpost):
    assert "removed there" in outpost.ok("remove", "there")
    assert [o["name"] for o in outpost.json("list")["outposts"]] == ["here"]
    result = outpost.run("remove", "there")
    assert result.exit_code in (2, 4)
    assert "there" in result.stderr


def test_remove_asks_nobody_where_no_worker_is_known(outpost):
    outpost.ok("remove", "there")
    assert outpost.there.calls == []


def test_remove_is_refused_while_workers_there_run(outpost):
    outpost.spawn("a")
    error = outpost.json("remove", "here", code=2)["error"]
    assert error["message"] == "1 worker at here has not ended: a.1"
    assert error["hint"].startswith("outpost stop a.1 first")
    outpost.here.finish("a.1")  # the outpost is asked
    outpost.ok("remove", "here")


def test_remove_is_refused_on_what_was_heard_last(outpost):
    outpost.spawn("a")
    outpost.here.cut()
    assert outpost.json("remove", "here", code=2)["error"]["type"] == "ConflictError"
    outpost.ok("remove", "here", "--force")


def test_remove_by_force_says_what_it_leaves_and_how_that_is_ended(outpost):
    outpost.spawn("b")
    assert outpost.json("remove", "there", "--force")["left"] == []
    outpost.here.cut()
    said = outpost.ok("remove", "here", "--force")
    assert "1 worker at here has not ended: b.1; nobody follows" in said
    assert "add here again as it was, then outpost stop b.1, and outpost wait" in said


def test_remove_from_the_policy_too(outpost):
    outpost.config.write_text(
        outpost.config.read_text() + "policy: {default_preference: [there, here]}\n"
    )
    assert outpost.json("remove", "there", code=2)["error"]["hint"]
    outpost.ok("remove", "there", "--prune")
    values = {v["key"]: v["value"] for v in outpost.json("config", "show")["values"]}
    assert values["policy.default_preference"] == ["here"]


def test_config_check(outpost):
    assert "ok (2 outposts, 0 overrides)" in outpost.ok("config", "check")
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh}\n")
    said = outpost.json("config", "check")
    assert said["ok"]
    assert "outpost_ssh" in said["warnings"][0]
    outpost.config.write_text("outposts:\n  - {name: far, type: fakee}\n")
    assert "did you mean 'fake'?" in outpost.json("config", "check")["warnings"][0]


def test_config_check_shows_the_place_of_a_warning(outpost, monkeypatch):
    def warnings(options, answer_timeout):
        return {"max_workers": f"{options.max_workers} in {answer_timeout:.0f} s"}

    monkeypatch.setattr(FakeOptions, "warnings", warnings)
    outpost.config.write_text(
        "outposts:\n  - {name: far, type: ssh}\n  - name: here\n    type: fake\n"
        "    max_workers: 99\n  - {name: there, type: fake}\n"
    )
    missing, written, built_in = outpost.json("config", "check")["warnings"]
    assert missing.startswith(f"{outpost.config}:2:5: far: nothing installed provides")
    assert written == f"{outpost.config}:5:18: here: 99 in 10 s"
    assert built_in == f"{outpost.config}:6:5: there: None in 10 s"
    assert f"warning: {written}" in outpost.ok("config", "check")


@pytest.mark.parametrize("answer", [None, {"max_workers": 1 / 3}, ["max_workers"]])
def test_config_check_names_a_type_that_fails_to_warn(outpost, monkeypatch, answer):
    def warnings(options, defaults):
        if answer is None:
            raise KeyError("of a plugin")
        return answer

    monkeypatch.setattr(FakeOptions, "warnings", warnings)
    outpost.config.write_text(
        "outposts:\n  - {name: here, type: fake}\n  - {name: far, type: ssh}\n"
    )
    said = outpost.json("config", "check")
    assert said["ok"]
    assert any("nothing installed provides" in warning for warning in said["warnings"])
    (told,) = [warning for warning in said["warnings"] if "here" in warning]
    assert told.startswith(f"{outpost.config}:2:5: here: ")
    assert isinstance(answer, dict) or "'fake' could not say what it warns of" in told


def test_config_check_shows_the_place_of_a_mistake(outpost):
    outpost.config.write_text(
        "outposts:\n  - {name: here, type: fake}\npolicy:\n  overrides:\n"
        "    - {condition: 'priority >== P3', prefer: here}\n"
    )
    result = outpost.run("config", "check")
    assert result.exit_code == 2
    assert f"{outpost.config}:5:" in result.stderr
    assert "^" in result.stderr


def test_config_show_says_where_values_come_from(outpost):
    said = outpost.json("config", "show")
    origins = {v["key"]: v["origin"] for v in said["values"]}
    assert said["chosen_by"] == "--config"
    assert origins["outposts.here.max_workers"].startswith(f"{outpost.config}:2:")
    assert origins["defaults.agent"] == "built in"
    assert "outposts.yaml:2:" in outpost.ok("config", "show")


def test_the_help_of_a_type_begins_with_what_it_requires(outpost):
    needy = Backend(type="needy", options=Needy, build=FakeOutpost, summary="needs a lot")

    class Package:
        @hookimpl
        def outpost_backends(self):
            return {"needy": needy}

    outpost.plugins.append(Package())
    text = " ".join(outpost.ok("add", "needy", "--help").split())
    assert "outpost add needy NAME --host HOST --words WORD --max-workers 4" in text
    assert "--words WORD Some words; again for more. [required] --max-workers N" in text


@dataclass(frozen=True, kw_only=True)
class Sited(OutpostOptions):
    region: str = option("where it is", default="", each=True)
    zone: str = option("where exactly", default="", each=True)


@pytest.fixture
def sited(outpost):
    backend = Backend(type="sited", options=Sited, build=FakeOutpost, summary="is somewhere")

    class Package:
        @hookimpl
        def outpost_backends(self):
            return backend

    outpost.plugins.append(Package())
    return outpost


def test_a_flag_of_places_that_is_given_again_adds_an_outpost_for_each(sited):
    said = sited.json("add", "sited", "burst", "--region", "us", "--region", "e.u/1", "--zone", "a")
    assert said["added"] == ["burst-us", "burst-e-u-1"]
    values = {v["key"]: v["value"] for v in sited.json("config", "show")["values"]}
    assert values["outposts.burst-us.region"] == "us"
    assert values["outposts.burst-e-u-1.region"] == "e.u/1"
    assert values["outposts.burst-e-u-1.zone"] == "a"
    assert sited.json("add", "sited", "one", "--region", "us")["added"] == "one"
    text = " ".join(sited.ok("add", "sited", "--help").split())
    assert "again for one more outpost" in text
    assert "--region or --zone given several times adds an outpost for each, NAME-VALUE" in text


def test_of_several_outposts_all_are_added_or_none(sited):
    sited.ok("add", "sited", "burst-eu", "--region", "eu")
    before = sited.config.read_text()
    for words in (
        ("--region", "us", "--region", "eu"),  # the name of the second is taken
        ("--region", "us", "--region", "us"),
        ("--region", "us", "--region", "us2", "--zone", "a", "--zone", "b"),
        ("--region", "us", "--region", "x" * 80),
    ):
        error = sited.json("add", "sited", "burst", *words, code=2)["error"]
        assert error["message"], words
    assert sited.config.read_text() == before
