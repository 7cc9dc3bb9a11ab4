"""What each command answers with `--json`, for the reference: key to meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = dict[str, Any]

WORKER: Final[Shape] = {
    "id": "issue and attempt: gt-abc123.1",
    "issue": "the issue's id",
    "attempt": "from 1",
    "outpost": "where it is",
    "status": "queued, starting, working, idle, done, failed, stopped or lost",
    "detail": "a word for people: its phase",
    "title": "the issue's title",
    "priority": "0 to 4, 0 is the highest",
    "rig": "URL or path of the repository, or null",
    "agent": "the agent's name",
    "branch": "the branch that is on the remote, or null",
    "commit": "the commit that was seen there, or null",
    "pr_url": "what the pull-request command printed, or null",
    "exit_code": "of the agent, or null",
    "signal": "that ended the agent, or null",
    "reason": "how it ended: ok, nothing_to_commit, agent_failed, timeout …; null while it runs",
    "message": "the same in a sentence",
    "checkpoint": "where unpushed work was rescued to, or null",
    "session": "the agent's own session id, or null",
    "retry_at": "when its provider takes requests again, as the agent says, or null",
    "created_at": "when it was reserved",
    "started_at": "when it began, or null",
    "finished_at": "when it ended, or null",
    "updated_at": "when something new was last heard, or null",
    "unreachable_since": "when its outpost stopped answering, or null",
    "log_bytes": "size of its output, or null",
    "log_truncated": "whether the output was cut at its cap",
    "cost_usd": "what the outpost charged, or null",
    "agent_cost_usd": "what its agent spent, while it runs so far; null when nobody knows",
    "total_cost_usd": "both together; null when neither is known",
    "cost_estimated": "whether a part of it is an estimate or the worst case",
    "cost_reserved_usd": "worst case held while it runs, of outpost and agent",
    "usage": "what the agent used, while it runs so far: input_tokens, output_tokens,"
    " cached_tokens, cost_usd,"
    " turns, model, partial (it was ended before it said all), estimated (cost_usd comes from"
    " prices); or null",
}
EVENT: Final[Shape] = {
    "id": "its place in the event log, ascending",
    "kind": "what happened: reserved, spawned, refused, state, stop, cleaned, unreachable …",
    "at": "when",
    "worker": "the worker concerned, or an empty text",
    "outpost": "the outpost concerned, or an empty text",
    "data": "more",
}
BREAKER: Final[Shape] = {
    "state": "closed, open or half-open",
    "failures": "in a row",
    "since": "when it came into that state",
    "retry_at": "when one probe may go, or null",
    "probe": "the worker that is the probe, or null",
    "detail": "what failed last",
}
OUTPOST: Final[Shape] = {
    "name": "its name",
    "type": "its type",
    "state": "ready, unknown, unhealthy, unreachable, missing or broken; where it is brought up"
    " and down also down, starting, draining or stopping",
    "active": "workers there that have not ended",
    "max_workers": "slots, or null for no limit",
    "slots_reason": "where the slots come from when the configuration does not say them",
    "package": "who provides the type",
    "version": "of that package",
    "capabilities": ["what it can do"],
    "detail": "what it said, or why it is not ready",
    "hint": "the next step",
    "since": "when it began to answer, or stopped, or null",
    "spent_usd": "reserved and spent there in the last hour, by outpost and agents",
    "standing_usd": "the part of it that the outpost costs an hour without a worker",
    "cost_cap_hourly": "USD, or null",
    "breaker": "its circuit breaker as in accounts, or null while nothing has failed",
}
EXPLANATION: Final[Shape] = {
    "rule": "the override or preference that ordered the outposts",
    "verdicts": [
        {
            "outpost": "its name",
            "rank": "1 is tried first; null when it is passed over",
            "eligible": "whether it would be tried",
            "reason": "why",
            "machine_cost": "USD that the outpost charges at worst, or null",
            "agent_cost": "USD that the agent spends at worst, or null when nobody knows",
        }
    ],
    "attempts": [{"outpost": "that was tried and did not take it", "error": "what it said"}],
    "notes": ["what went wrong while it was decided, such as a policy that failed"],
}
LETTER: Final[Shape] = {
    "id": "the message's own",
    "outpost": "where it goes",
    "to": "the address there",
    "from": "who it is from",
    "subject": "one line",
    "body": "the text",
    "priority": "0 to 4, 0 is the highest",
    "state": "delivered, waiting or failed",
    "tries": "how often nobody was found",
    "error": "what came of the last try, or an empty text",
    "written_at": "when it was written",
    "tried_at": "when it was last tried, or null",
    "next_try_at": "when it is tried again by itself, or null",
    "delivered_at": "when the outpost had it, or null",
    "failed_at": "when it was refused for ever, or null",
}
ERROR: Final[Shape] = {
    "code": "the exit code",
    "type": "the error's name",
    "message": "what and why",
    "hint": "what to do",
}
TOTAL: Final[Shape] = {
    "key": "the day (2026-01-31, in local time), or the name of outpost, agent or rig",
    "workers": "how many",
    "running": "how many of them have not ended; what they spent so far counts",
    "unknown": "of how many that ended nobody knows what their agent spent",
    "total_usd": "what outposts and agents cost",
    "machine_usd": "what outposts charged",
    "agent_usd": "what agents spent",
    "estimated": "whether a part is an estimate or the worst case",
    "input_tokens": "everything that went into models",
    "cached_tokens": "the part of it that came from a cache",
    "output_tokens": "everything that came out",
}
_REFUSED: Final[Shape] = {
    "issue": "the issue's id",
    "error": ERROR,
    "crowded": "whether an outpost would take it once less runs or is spent there, or it is up",
}
#: command → its answer.
SHAPES: Final[Mapping[str, Shape]] = {
    "list": {"outposts": [OUTPOST]},
    "status": {
        "outposts": [OUTPOST],
        "workers": [WORKER],
        "ended": ["workers that ended in the last 24 hours, newest first"],
    },
    "backends": {
        "packages": [
            {
                "entry_point": "its name",
                "package": "the distribution",
                "version": "its version",
                "ok": "whether all of it is usable",
                "reason": "why not",
                "hint": "what to do",
                "types": [{"type": "for outposts.yaml", "summary": "", "capabilities": [""]}],
            }
        ]
    },
    "plugins": {
        "plugins": [
            {
                "plugin": "the name of its entry point",
                "package": "the distribution",
                "version": "its version",
                "module": "what the entry point names",
                "ok": "whether all of it is usable",
                "hooks": ["that it implements"],
                "types": ["outpost types"],
                "agents": ["names"],
                "commands": ["names"],
                "roles": ["policy, issues, observer, orders, services"],
                "problems": [
                    {
                        "where": "import, a hook or a type",
                        "reason": "what is wrong",
                        "hint": "what to do",
                        "traceback": "where it was raised, or empty",
                    }
                ],
                "errors": [
                    {
                        "hook": "that failed last",
                        "outpost": "whose it is, or empty",
                        "reason": "what it raised",
                        "at": "when",
                        "count": "how often",
                        "traceback": "where it was raised",
                    }
                ],
            }
        ]
    },
    "plugin new": {
        "package": "the distribution",
        "kind": "outpost, agent, policy or command",
        "folder": "where it is",
        "files": ["in it"],
    },
    "ping": {
        "outposts": [
            {
                "name": "its name",
                "ok": "whether it would take a worker now",
                "detail": "what it said",
                "hint": "what to do",
                "latency": "seconds, or null",
                "free_memory": "bytes there, or null",
                "error": "null, or the error when it did not answer",
            }
        ]
    },
    "add": {
        "added": "the outpost's name; the names as a list where a flag was given several times and"
        " each value is an outpost",
        "type": "their type",
        "file": "the configuration file",
    },
    "remove": {
        "removed": "the outpost's name",
        "file": "the configuration file",
        "left": ["worker there that has not ended; with --force"],
    },
    "spawn": {
        "spawned": [
            {
                "worker": WORKER,
                "adopted": "whether it was there before",
                "explanation": EXPLANATION,
            }
        ],
        "refused": [_REFUSED],
        "hints": ["what is worth knowing besides, such as commits here that are not pushed"],
    },
    "retry": {
        "spawned": [
            {
                "worker": WORKER,
                "adopted": "whether it was there before",
                "explanation": EXPLANATION,
            }
        ],
        "refused": [_REFUSED],
        "hints": ["what is worth knowing besides, such as commits here that are not pushed"],
    },
    "continue": {
        "spawned": [
            {
                "worker": WORKER,
                "adopted": "whether it was there before",
                "explanation": EXPLANATION,
            }
        ],
        "refused": [_REFUSED],
        "hints": ["what is worth knowing besides, such as commits here that are not pushed"],
    },
    "explain": {
        "explanations": [
            {"issue": "the issue's id", "worker": "the id it would get", **EXPLANATION}
        ]
    },
    "workers": {
        "workers": [WORKER],
        "not_told": [
            {
                "outpost": "one that did not tell of its workers; what is shown of these is older",
                "message": "why",
                "hint": "what helps, or empty",
            }
        ],
    },
    "wait": {"workers": [WORKER]},
    "cost": {
        "by": "day, outpost, agent or rig",
        "since": "when the totals begin, or null",
        "totals": [TOTAL],
        "total": TOTAL,
        "standing": [
            {"outpost": "its name", "usd_hourly": "what it costs without a worker; in no total"}
        ],
        "budgets": [
            {
                "name": "its name",
                "window": "hour, day, week or month",
                "usd": "what any window may hold",
                "used_usd": "what the window that ends now holds: the next three",
                "reserved_usd": "what running workers may cost, or have cost where that is more",
                "spent_usd": "what workers cost that have ended",
                "standing_usd": "what outposts cost in so long a time without a worker; machines"
                " that are started when needed as long as they were up, and an hour to come",
                "left_usd": "what may be reserved still",
                "counts": {
                    "outpost": ["patterns; empty for all"],
                    "rig": ["likewise"],
                    "label": ["likewise"],
                    "account": ["likewise"],
                },
            }
        ],
        "forecast": "with --forecast, else null: waiting (how many orders), worst_usd, usual_usd"
        " (as such work has cost in the last 30 days), unlimited (how many have no worst case),"
        " unknown (how many are like nothing that has ended), and budgets: each with its name, the"
        " same of the orders that count in it, left_usd, fit_at_worst and fit_usually (how many of"
        " them fit into what is left, in the order of their turns), and used_up_at (or null)",
    },
    "accounts": {
        "accounts": [
            {
                "name": "its name",
                "agent": "the agent that works with it",
                "configured": "whether outposts.yaml names it",
                "running": "how many workers use it",
                "max_workers": "how many may, or null for no limit",
                "limits": [
                    {
                        "unit": "usd or tokens",
                        "window": "hour, day or week",
                        "used": "within the window that ends now; USD that are reserved, too",
                        "most": "what may be",
                    }
                ],
                "parked": [
                    {"model": "or null for all", "until": "when it is over", "reason": "why"}
                ],
                "breaker": BREAKER,
            }
        ]
    },
    "events": {
        "events": [EVENT],
        "last": "id of the newest event: --after takes it; with -f, each line is one event alone",
    },
    "show": {
        "worker": WORKER,
        "order": "the order as spawned; of secrets only the names; or null",
        "explanation": "as in spawn, or null",
        "attempts": [WORKER],
        "accounts": "id of an attempt → the account whose credentials its agent used",
        "decisions": [
            {
                "worker": "the attempt that had ended",
                "at": "when",
                "what": "retry, park, anew (its session could not be resumed), elsewhere (the"
                " outpost with its session did not take it) or end",
                "why": "in words",
                "next": "the attempt that follows, or null",
                "account": "the one that a usage limit has parked, or null",
            }
        ],
        "events": [EVENT],
        "tree": "path of its working tree on its own machine, or null",
        "fence": "what keeps or kept its agent to its work: namespace, landlock 7, off,"
        " none: and why; or null",
        "last_line": "what its agent printed last, or null",
        "live_usage": "what the agent of a running worker has used so far, or null",
    },
    "diff": {
        "worker": "its id",
        "branch": "the delivered branch, or null where unpushed work was rescued",
        "base": "the commit where the work left its base",
        "commit": "the commit of the work",
        "diff": "what git diff printed",
    },
    "checkout": {
        "worker": "its id",
        "branch": "the branch that the clone is on now",
        "commit": "where it is",
        "folder": "the clone",
    },
    "logs": {
        "offset": "of the first byte; one such line for each piece",
        "text": "the output, undecodable bytes replaced",
        "base64": "the bytes, only where text is not exact",
    },
    "attach": {"worker": "its id", "exit_code": "of the viewer"},
    "peek": {"worker": "its id", "text": "what its terminal shows"},
    "nudge": {"worker": "its id", "text": "what was typed"},
    "mail send": {"letter": LETTER},
    "mail inbox": {
        "outposts": [
            {
                "outpost": "its name",
                "messages": [
                    {
                        "id": "the message's own there",
                        "to": "the address there",
                        "from": "who it is from, as the writer says",
                        "via": "who put it there, where the outpost can prove it; null where"
                        " `from` is only a claim",
                        "subject": "one line",
                        "body": "the text",
                        "priority": "0 to 4, 0 is the highest",
                        "sent_at": "when it was written, or null",
                        "read": "whether the receiver has seen it",
                    }
                ],
                "error": "null, or the error when it gave no answer",
            }
        ]
    },
    "mail outbox": {"letters": [LETTER]},
    "mail flush": {"letters": [LETTER]},
    "mail drop": {"letter": LETTER},
    "stop": {"stopped": ["ids whose end is asked for"], "refused": [
        {"worker": "its id", "error": ERROR}
    ]},
    "clean": {
        "cleaned": [
            {
                "worker": "its id",
                "removed": "whether its files are gone",
                "rescued": "where unpushed work went, or null",
                "detail": "why it was not removed",
                "error": "null, or the error",
            }
        ]
    },
    "doctor": {
        "ok": "whether nothing has to be fixed",
        "findings": [
            {
                "scope": "outpost, or what else was looked at",
                "check": "what was looked at",
                "ok": "true, false to be fixed, null worth knowing",
                "detail": "what was found",
                "hint": "what to do",
            }
        ],
    },
    "bootstrap": {
        "outpost": "its name",
        "ok": "whether no step failed",
        "dry_run": "whether nothing was changed",
        "steps": [
            {
                "name": "what it is about",
                "state": "ok (it was there), would (with --dry-run), done, failed, or skipped"
                " (not allowed, or an earlier step failed)",
                "detail": "what was found or done",
                "hint": "what to do about a failed or skipped one",
                "seconds": "how long it took",
            }
        ],
    },
    "demo": {
        "ok": "whether everything was as it should be",
        "workers": [WORKER],
        "killed": "the worker that was killed on the way, or null",
        "branches": {"outpost/gt-1": "the commit, as the remote has it"},
        "diff": "what the agents changed",
        "log": "what the last one printed",
        "folder": "where it was kept, or null",
    },
    "config check": {
        "ok": "true",
        "file": "the file, or null",
        "chosen_by": "why that file",
        "outposts": "how many",
        "overrides": "how many",
        "warnings": ["where, and what will not work as it is or is probably a mistake"],
    },
    "config show": {
        "file": "the file, or null",
        "chosen_by": "why that file",
        "places": [
            {
                "file": "where it is looked for, the first that counts is used",
                "named_by": "--config, $OUTPOST_CONFIG, town or user",
                "standing": "used, not there, another one comes first, not trusted, changed since"
                " it was trusted, others could have written it, or cannot be read",
                "detail": "why, or empty",
                "hint": "what to do, or empty",
            }
        ],
        "values": [{"key": "outposts.local.max_workers", "value": "", "origin": "file:1:1"}],
    },
    "trust": {
        "files": [
            {
                "file": "its path",
                "standing": "trusted, revoked, changed since it was trusted, others could have"
                " written it, gone, or cannot be read",
                "sha256": "the hash of what was trusted",
                "trusted_at": "when, or null",
            }
        ]
    },
    "completion": {"shell": "its name", "script": "the script"},
}  # fmt: skip
