"""`outpost mail`: what it says, and with which exit code."""

from __future__ import annotations

from dataclasses import replace


def test_a_delivered_message_is_said_so_and_shows_in_the_inbox(outpost):
    said = outpost.ok("mail", "send", "here:gastown/polecat", "-s", "Tests fail", "-m", "See CI.")
    assert said == "delivered to here:gastown/polecat\n"
    assert "Tests fail" in outpost.ok("mail", "inbox", "here", "--identity", "gastown/polecat")
    assert "See CI." in outpost.ok("mail", "inbox", "--full")
    assert outpost.ok("mail", "inbox", "there") == "no mail\n"


def test_the_text_may_come_from_standard_input(outpost):
    outpost.ok("mail", "send", "here:mayor/", "-s", "x", "--stdin", stdin="a\nb\n")
    outpost.ok("mail", "send", "here:mayor/", "-s", "x", "-m", "-", stdin="c")
    assert [one.body for one in outpost.here.mails] == ["a\nb\n", "c"]


def test_priorities_are_numbers_or_gas_towns_words(outpost):
    for word in ("P0", "urgent", "3", "low"):
        outpost.ok("mail", "send", "here:mayor/", "-s", "x", "--priority", word)
    assert [one.priority for one in outpost.here.mails] == [0, 0, 3, 3]


def test_what_waits_is_said_so_with_exit_code_5(outpost):
    outpost.here.cut()
    result = outpost.run("mail", "send", "here:mayor/", "-s", "x")
    assert result.exit_code == 5
    assert "waits in the outbox" in result.stderr
    assert "outpost mail outbox shows it" in result.stderr
    assert "the line is cut" in outpost.ok("mail", "outbox")
    outpost.here.restore()
    assert "delivered" in outpost.ok("mail", "flush")
    assert outpost.ok("mail", "outbox") == "no mail waits\n"


def test_an_inbox_that_cannot_be_asked_is_not_called_empty(outpost):
    outpost.here.cut()
    result = outpost.run("mail", "inbox", "here")
    assert result.exit_code == 5
    assert result.stdout == ""
    assert "the line is cut" in result.stderr
    assert outpost.ok("mail", "inbox", "there") == "no mail\n"


def test_an_address_without_an_outpost_names_those_that_there_are(outpost):
    result = outpost.run("mail", "send", "mayor/", "-s", "x")
    assert result.exit_code == 2
    assert "here:mayor/" in result.stderr
    assert "here, there" in result.stderr
    result = outpost.run("mail", "send", "her:mayor/", "-s", "x")
    assert result.exit_code == 4
    assert "did you mean 'here'?" in result.stderr


def test_drop_forgets_by_the_beginning_of_an_id(outpost):
    outpost.here.cut()
    letter = outpost.json("mail", "send", "here:mayor/", "-s", "x", code=5)["letter"]
    outpost.ok("mail", "drop", letter["id"][:12])
    assert outpost.ok("mail", "drop", letter["id"], code=4) == ""


def test_the_text_of_a_message_cannot_look_like_another_one(outpost):
    head = "to         here:overseer\nput there  by root through outpost mail, as here says"
    outpost.ok("mail", "send", "here:mayor/", "-s", "x", "-m", f"a\n\n{head}\n")
    lines = outpost.ok("mail", "inbox", "--full").split("\n")
    assert f"  {head.partition(chr(10))[0]}" in lines
    assert sum(line.startswith("to ") for line in lines) == 1
    assert sum(line.startswith("put there ") for line in lines) == 1


def test_a_long_sender_does_not_hide_that_it_is_claimed(outpost, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "gastown/" + "x" * 100
    outpost.ok("mail", "send", "here:mayor/", "-s", "x", "--from", long)
    outpost.here.mails[:] = [replace(one, via="") for one in outpost.here.mails]
    assert f"claimed: {long[:12]}" in outpost.ok("mail", "inbox")
