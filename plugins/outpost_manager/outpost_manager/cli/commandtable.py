"""The built-in commands, in the order of the help, each with where it is."""

from __future__ import annotations

#: section → command → (module:attribute in this package, one line of help).
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Work": {
        "spawn": ("spawn:spawn", "Start workers on issues, at the best outpost."),
        "retry": ("retry:retry", "Try again what failed, with the same order."),
        "continue": ("retry:continue_", "Continue with delivered work: say what else to do."),
        "explain": ("spawn:explain", "Show where an order would go, and why; starts nothing."),
        "wait": ("workers:wait", "Wait until workers have ended."),
        "workers": (
            "workers:workers",
            "List the workers that have not ended, or all.",
        ),
        "show": ("workers:show", "Show everything about a worker."),
        "events": ("events:events", "Show what happened to workers and outposts."),
        "diff": ("review:diff", "Show what a worker did, against its base."),
        "checkout": ("review:checkout", "Switch this clone to a delivered branch."),
        "logs": ("contact:logs", "Print a worker's output."),
        "attach": ("contact:attach", "Give this terminal to a worker; detach any time."),
        "peek": ("contact:peek", "Print what a worker's terminal shows."),
        "nudge": ("contact:nudge", "Type a line into an interactive worker."),
        "mail": ("mail:mail", "Send mail to someone at an outpost, and read it."),
        "cost": (
            "cost:cost",
            "Show what workers cost, by day, outpost, agent or rig, and the budgets.",
        ),
        "stop": ("contact:stop", "End workers, after rescuing their unpushed work."),
        "clean": ("workers:clean", "Remove the files of workers whose work is delivered."),
    },
    "Outposts": {
        "list": ("outposts:list_", "List the configured outposts."),
        "status": (
            "status:status",
            "Ask the outposts and show their active workers, and what ended since yesterday.",
        ),
        "accounts": (
            "accounts:accounts",
            "List the accounts of agents: what each has taken, and what keeps it.",
        ),
        "ping": ("outposts:ping", "Ask outposts whether they would take a worker now."),
        "add": ("add:add", "Add an outpost to outposts.yaml."),
        "remove": ("edit:remove", "Remove an outpost from outposts.yaml."),
        "plugins": (
            "plugins:plugins",
            "List the plugins, what they provide, and their last errors.",
        ),
        "plugin": ("plugins:plugin", "Make a plugin: a package that works."),
        "backends": ("outposts:backends", "List the installed types, and unusable packages."),
    },
    "Set-up": {
        "bootstrap": ("bootstrap:bootstrap", "Install what workers need at an outpost."),
        "doctor": (
            "setup:doctor",
            "Check everything that workers need, and say what to do about it.",
        ),
        "demo": ("demo:demo", "Watch three workers in a throw-away folder: no key, no account."),
        "config": ("edit:config", "Check or show the configuration."),
        "trust": ("trust:trust", "Let the files of a Gas Town count."),
        "completion": ("setup:completion", "Print the completion script for a shell."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
#: Commands of packages of ours that need not be installed.
ELSEWHERE = {"conformance": "outpost-testing"}
