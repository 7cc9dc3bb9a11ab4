"""What the options of a Cloud Run outpost may say, and what of it is probably a mistake.

The rules are Google's, of https://cloud.google.com/run/docs/configuring (the pages `cpu`,
`memory-limits`, `concurrency`, `environment-variables`) and of the references that the functions
name; what they would refuse at the first worker is refused when the file is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from outpost_cloudrun import price
from outpost_cloudrun.addresses import check_url, is_loopback
from outpost_core.errors import UsageError
from outpost_core.types import check_env_name
from outpost_core.units import format_bytes, format_duration

if TYPE_CHECKING:
    from outpost_cloudrun.settings import Settings

_GIB: Final = 1 << 30
#: A project's id, with the domain that old ones have, or its number.
_PROJECT: Final = re.compile(r"(?:[a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{6,20}")
_REGION: Final = re.compile(r"[a-z]{2,20}-[a-z]{2,20}[0-9]{1,2}")
#: A service's name; 49 characters are the most that Cloud Run takes.
_SERVICE: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,47}[a-z0-9])?")
#: An image's reference: no scheme, and nothing that an option begins with.
_IMAGE: Final = re.compile(r"(?!.*://)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,499}", re.ASCII)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](?:/[A-Za-z0-9_-]{1,63}){0,8}")
_NFS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}:/[!-~]{0,500}", re.ASCII)
_EMAIL: Final = re.compile(r"[A-Za-z0-9._-]{1,100}@[A-Za-z0-9.-]{1,200}\.gserviceaccount\.com")
_SECRET: Final = re.compile(
    r"projects/(?P<project>[a-z0-9.:-]{1,100})/secrets/(?P<name>[A-Za-z0-9_-]{1,255})"
    r"(?::|/versions/)(?P<version>latest|[0-9]{1,10}|[a-zA-Z][A-Za-z0-9_-]{0,62})",
    re.ASCII,
)
_LABEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_VPC: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?/[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_STAGES: Final = ("", "GA", "BETA", "ALPHA")
#: vCPUs → the least and the most GiB that go with them.
_MEMORY: Final[Mapping[float, tuple[float, float]]] = {
    1: (0.125, 4), 2: (0.125, 8), 4: (2, 16), 6: (4, 24), 8: (4, 32),
}  # fmt: skip
#: Variables that Cloud Run, or the container's own program, sets.
_TAKEN: Final = re.compile(
    r"PORT|K_(?:SERVICE|REVISION|CONFIGURATION)|CLOUD_RUN_.*|GCE_METADATA_HOST"
    r"|OUTPOST_(?!AGENT$|FENCE$).*"
)
#: Those of them that are secrets of the container's own program, and never reach an agent.
_OWN_SECRETS: Final = frozenset(("OUTPOST_GIT_CREDENTIALS", "OUTPOST_TOKEN"))
_SECRET_WORDS: Final = re.compile(
    r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)"
)
#: Labels that Google refuses, and those by which this outpost finds what it made.
_TAKEN_LABEL: Final = re.compile(r"goog.*|outpost.*")
_MOST_LABELS: Final = 32
_LEAST_SENSIBLE: Final = _GIB


def check(options: Settings) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: a value is mistaken, or two do not go together.
    """
    _check_place(options)
    _check_size(options)
    _check_mode(options)
    _check_environment(options)
    _check_storage(options)
    _check_identity(options)
    _check_money(options)


def secret_parts(secret: str) -> tuple[str, str, str]:
    """Return project, name and version of a secret as the option `secrets` writes it.

    Raises:
        UsageError: it is written otherwise.
    """
    match = _SECRET.fullmatch(secret)
    if match is None:
        raise UsageError(
            "it is not the name of a secret of Secret Manager",
            hint="write projects/PROJECT/secrets/NAME:VERSION, with latest or a number as VERSION;"
            " the value itself does not belong here",
        )
    return match["project"], match["name"], match["version"]


def _fits(pattern: re.Pattern[str], what: str, value: str, hint: str) -> None:
    if not pattern.fullmatch(value):
        raise UsageError(f"{what} {value[:80]!a} is not one that Cloud Run takes", hint=hint)


def _check_place(options: Settings) -> None:
    named = {"project": options.project, "region": options.region, "service": options.service}
    missing = [word for word, value in named.items() if not value]
    if missing and not options.url:
        raise UsageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            hint="a Cloud Run outpost needs project, region and service; or url, where the"
            " container runs already",
        )
    if missing and options.mode != "service":
        raise UsageError(
            f"mode is {options.mode}, which is made anew for each worker, and"
            f" {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            hint="give project, region and service; a url alone is for mode: service",
        )
    if options.url and options.mode != "service":
        raise UsageError(
            f"url is the address of a service, and mode is {options.mode}",
            hint="take out url, or write mode: service",
        )
    if options.project:
        hint = "`gcloud projects list` shows the ids: 6 to 30 of a-z 0-9 -, such as my-project-1"
        _fits(_PROJECT, "project", options.project, hint)
    if options.region:
        hint = (
            "write a region such as us-central1 or europe-west4, not a zone such as us-central1-a"
        )
        _fits(_REGION, "region", options.region, hint)
    if options.service:
        hint = "use 1 to 49 of a-z 0-9 -, beginning with a letter and not ending with a dash"
        _fits(_SERVICE, "service", options.service, hint)
    for word, url in (("url", options.url), ("endpoint", options.endpoint)):
        if url:
            check_url(word, url)


def _check_size(options: Settings) -> None:
    cpu, memory = options.cpu, options.memory
    least, most = _MEMORY.get(cpu, (0.0, 0.0))
    if cpu < 1:
        if round(cpu, 3) != cpu:
            raise UsageError(f"cpu is {cpu:g}, which is finer than a thousandth of a vCPU")
        least, most = 0.125, 0.5 if cpu < 0.5 else 1
    elif not most:
        raise UsageError(
            f"cpu is {cpu:g}, and Cloud Run has containers of 1, 2, 4, 6 and 8 vCPUs, or less than"
            " one",
            hint=f"the next size is cpu: {min(size for size in _MEMORY if size > cpu):g}",
        )
    # the second generation of Cloud Run's execution environments has more
    second = options.mode != "service" or options.disk is not None or bool(options.volume)
    floor = 0.5 if second else 0.125
    least = max(least, floor)
    if least * _GIB <= memory <= most * _GIB:
        return
    fitting = [
        size
        for size, (low, high) in _MEMORY.items()
        if size != cpu and max(low, floor) * _GIB <= memory <= high * _GIB
    ]
    raise UsageError(
        f"cpu {cpu:g} goes with {_size(least)} to {_size(most)} of memory, and memory is"
        f" {format_bytes(memory)}",
        hint=f"that memory goes with cpu: {' or '.join(f'{size:g}' for size in fitting)}"
        if fitting
        else f"write memory: {_size(min(max(least, memory / _GIB), most))}",
    )


def _size(gib: float) -> str:
    return format_bytes(round(gib * _GIB))


def _check_mode(options: Settings) -> None:
    mode = options.mode
    if mode != "service":
        if not options.image:
            raise UsageError(
                f"mode is {mode}, and image is missing",
                hint="`outpost image build` makes one; push it, and write its name here",
            )
        if options.concurrency != 1:
            raise UsageError(
                f"mode is {mode}, which runs one worker a container, and concurrency is"
                f" {options.concurrency}",
                hint="take out concurrency, or write mode: service",
            )
        if options.keep_warm != "none":
            raise UsageError(
                f"mode is {mode}, of which nothing is kept warm, and keep_warm is"
                f" {options.keep_warm}",
                hint="take out keep_warm, or write mode: service",
            )
    if options.cpu < 1:
        why = "mode: service" if mode != "service" else ""
        why = why or ("concurrency: 1" if options.concurrency > 1 else "")
        why = why or ("billing: request" if options.billing != "request" else "")
        if why:
            raise UsageError(
                f"cpu is {options.cpu:g}, and less than one vCPU goes with {why} alone",
                hint=f"write {why}, or cpu: 1",
            )
    if options.image:
        hint = "such as us-central1-docker.pkg.dev/PROJECT/REPOSITORY/outpost:1, without https://"
        _fits(_IMAGE, "image", options.image, hint)
    if options.launch_stage not in _STAGES:
        raise UsageError(
            f"launch_stage {options.launch_stage[:80]!a} is not one of GA, BETA and ALPHA",
            hint="leave it out where nothing needs it",
        )
    if options.vpc:
        hint = "write NETWORK/SUBNET, such as default/default"
        _fits(_VPC, "vpc", options.vpc, hint)


def _check_environment(options: Settings) -> None:
    for word, names in (("env", options.env), ("secrets", options.secrets)):
        for name in names:
            check_env_name(name)
            own = word == "secrets" and name in _OWN_SECRETS
            if _TAKEN.fullmatch(name) and not own:
                raise UsageError(
                    f"{word}: {name} is set by Cloud Run, or by another option of this outpost",
                    hint="give the variable another name, or use the option",
                )
    for name in options.secrets.keys() & options.env.keys():
        raise UsageError(f"{name} is under env and under secrets", hint="take one of them out")
    for name, secret in options.secrets.items():
        try:
            secret_parts(secret)
        except UsageError as error:
            raise UsageError(f"secrets: {name}: {error.message}", hint=error.hint) from None
    for key, value in options.labels.items():
        if not _LABEL.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise UsageError(
                f"labels: {key[:80]!a}: {value[:80]!a} is no label that Google takes",
                hint="small letters, digits, - and _, to 63 of them; keys begin with a letter",
            )
        if _TAKEN_LABEL.fullmatch(key):
            raise UsageError(
                f"labels: {key} belongs to Google or to Outpost", hint="give it another name"
            )
    if len(options.labels) > _MOST_LABELS:
        raise UsageError(f"labels has {len(options.labels)} entries, and {_MOST_LABELS} are taken")


def _check_storage(options: Settings) -> None:
    if options.bucket and options.volume:
        raise UsageError(
            "bucket and volume are for the same: claims, results and logs",
            hint="take one of them out",
        )
    if options.bucket:
        hint = "write the name alone, such as my-bucket, or with a folder: my-bucket/outpost"
        _fits(_BUCKET, "bucket", options.bucket, hint)
    if options.volume:
        hint = "write SERVER:/PATH of an NFS share, such as 10.0.0.2:/share"
        _fits(_NFS, "volume", options.volume, hint)
    reference = options.rig_reference
    if reference and (not reference.startswith("/") or not reference.isprintable()):
        raise UsageError(
            f"rig_reference {reference[:80]!a} is not a path in the container",
            hint="write an absolute path, such as /srv/rig.git",
        )


def _check_identity(options: Settings) -> None:
    if options.service_account:
        hint = "write NAME@PROJECT.iam.gserviceaccount.com"
        _fits(_EMAIL, "service_account", options.service_account, hint)
    if options.auth == "service-account" and options.key_file is None:
        raise UsageError(
            "auth is service-account, and key_file is missing",
            hint="write the path of its key file, or auth: auto",
        )
    if options.auth == "token" and (options.key_file is None or not options.url):
        missing = "url" if options.key_file is not None else "key_file"
        raise UsageError(
            f"auth is token, and {missing} is missing",
            hint="a token is for a container that runs somewhere by its url, and key_file is the"
            " path of the file with what OUTPOST_TOKEN is there",
        )
    if options.key_file is not None and options.auth not in ("auto", "service-account", "token"):
        raise UsageError(
            f"auth is {options.auth}, so key_file is not looked at",
            hint="write auth: service-account, or take out key_file",
        )
    if options.audience and (not options.audience.isprintable() or " " in options.audience):
        raise UsageError(f"audience {options.audience[:80]!a} is not an audience")
    if options.git_credentials and not options.git_credentials[0]:
        raise UsageError(
            "git_credentials is empty", hint="git_credentials: [/path/to/command, argument]"
        )


def _check_money(options: Settings) -> None:
    standing, cap = price.standing(options), options.cost_cap_hourly
    if cap is not None and 0 < standing >= cap:
        raise UsageError(
            f"cost_cap_hourly is {cap:g} USD, and keeping the container warm costs"
            f" {standing:.3f} USD an hour by itself",
            hint="raise the cap, or write keep_warm: none",
        )


def warnings(options: Settings) -> dict[str, str]:
    """Return for the name of an option what comes of its value, and what to write instead."""
    found: dict[str, str] = {}
    if options.keep_warm == "stream" and options.concurrency == 1:
        found["keep_warm"] = (
            "the stream takes the only place of the container that it keeps, so that the next"
            " worker starts another one, cold; write concurrency: 2, or keep_warm: min-instances"
        )
    if options.keep_warm != "stream" and options.warm_for == 0:
        found["warm_for"] = (
            "0 closes this machine's connection at once after the last worker; the next one makes"
            " it anew"
        )
    each = options.memory // options.concurrency
    if each < (_LEAST_SENSIBLE if options.disk is None else _LEAST_SENSIBLE // 2):
        counts = "" if options.disk else ", and its clone counts as well without a disk"
        found["memory"] = (
            f"a worker has {format_bytes(each)} of it{counts}; an agent that runs out of memory"
            " takes the container and all workers in it along: 2GiB a worker are sensible"
        )
    for name in options.env:
        if _SECRET_WORDS.search(name.upper()):
            found["env"] = (
                f"{name} looks like a secret, and everybody who may look at the service sees its"
                f" value; keep it in Secret Manager, and write secrets: {{{name}: projects/P/"
                "secrets/S:latest}"
            )
    if options.volume and not options.vpc:
        found["volume"] = (
            "an NFS share is reached through a network of the project; write vpc: NETWORK/SUBNET"
        )
    if options.auth == "none" and options.url and not is_loopback(options.url):
        found["auth"] = (
            "calls carry no identity, so everybody who knows the address can start workers there,"
            " unless something in front of it asks; write auth: auto"
        )
    if cap := options.cost_cap_hourly:
        hour = price.hour(options)
        if hour.standing + hour.busy / 12 > cap:
            found["cost_cap_hourly"] = f"{cap:g} USD do not take one worker of five minutes; {hour}"
    if options.mode == "service" and options.request_timeout < 60:
        found["request_timeout"] = (
            f"a worker's request is renewed every {format_duration(options.request_timeout)}; the"
            " most that Cloud Run takes, 1h, is best"
        )
    return found
