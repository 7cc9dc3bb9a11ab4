"""What the options of a Kubernetes outpost may say, and what of it is probably a mistake.

The rules are those of the API (https://kubernetes.io/docs/concepts/overview/working-with-objects/,
the pages `names` and `labels`); what it would refuse at the first worker is refused when the file
is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest
from outpost_core.types import Agent, Issue, Order, check_env_name
from outpost_core.units import format_bytes, format_duration
from outpost_k8s import price
from outpost_k8s.objects import job, names, reach
from outpost_k8s.objects.tolerations import toleration

if TYPE_CHECKING:
    from outpost_k8s.settings import Settings

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: A namespace (RFC 1123 label), and most other names (subdomain).
_DNS_LABEL: Final = re.compile(_LABEL)
_DNS_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
#: An image's reference: no scheme, nothing that an option begins with; of the repository, small
#: letters alone (https://github.com/distribution/reference).
_IMAGE: Final = re.compile(
    r"(?=.{1,500}$)(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_KEY: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,253}", re.ASCII)
_WORD: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"(?:(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/)?{_WORD}", re.ASCII)
_LABEL_VALUE: Final = re.compile(rf"(?:{_WORD})?", re.ASCII)
_FOLDER: Final = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~+-]{1,200}", re.ASCII)
_PULL_POLICIES: Final = ("", "Always", "IfNotPresent", "Never")
_PRIORITIES: Final = ("P0", "P1", "P2", "P3", "P4", "default")
_TAKEN_LABELS: Final = (names.MANAGED_BY, names.NAME)
_TAKEN_PREFIXES: Final = (*names.OWN_PREFIXES, "kueue.x-k8s.io/")
_SECRET_WORDS: Final = re.compile(
    r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)"
)
_MOST_LABELS: Final = 40
_GIB: Final = 1 << 30
#: Seconds that a node needs which is only made for the pod; a cluster's autoscaler takes minutes.
_NEW_NODE: Final = 180.0
_NAME_HINT: Final = "small letters, digits, - and dots, to 253 of them"


def check(options: Settings) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: a value is mistaken, or two do not go together. Its message begins with the
            name of the option.
    """
    _check_place(options)
    _check_image(options)
    _check_environment(options)
    _check_git(options)
    _check_volumes(options)
    _check_scheduling(options)
    _check_labels("labels", options.labels, own=True)
    _check_network(options)
    _check_money(options)
    _check_template(options)


def _fits(pattern: re.Pattern[str], what: str, value: str, hint: str) -> None:
    if not pattern.fullmatch(value):
        raise UsageError(f"{what}: {value[:80]!a} is not one that Kubernetes takes", hint=hint)


def _check_place(options: Settings) -> None:
    if not options.context.isprintable():
        raise UsageError(
            f"context {options.context[:80]!a} is no name", hint="kubectl config get-contexts"
        )
    if options.namespace:
        hint = "1 to 63 of a-z 0-9 -, beginning and ending with a letter or digit"
        _fits(_DNS_LABEL, "namespace", options.namespace, hint)


def _check_image(options: Settings) -> None:
    if not options.image:
        raise UsageError(
            "image is missing: workers run in a container",
            hint="`outpost image build --push --tag REGISTRY/NAME:TAG` makes it; write that name",
        )
    hint = "such as registry.example/team/outpost-worker:1, without https://"
    _fits(_IMAGE, "image", options.image, hint)
    if options.image_pull_policy not in _PULL_POLICIES:
        raise UsageError(
            f"image_pull_policy {options.image_pull_policy[:80]!a} is not one of"
            f" {', '.join(_PULL_POLICIES[1:])}",
            hint=suggest(options.image_pull_policy, _PULL_POLICIES[1:]),
        )
    for name in options.image_pull_secrets:
        hint = "the name of a Secret of type kubernetes.io/dockerconfigjson in the namespace"
        _fits(_DNS_NAME, "image_pull_secrets", name, hint)


def _check_environment(options: Settings) -> None:
    for word, variables in (("env", options.env), ("secrets", options.secrets)):
        for name in variables:
            try:
                check_env_name(name)
            except UsageError as error:
                raise UsageError(f"{word}: {error.message}", hint=_env_hint(word)) from None
            if name.startswith("OUTPOST_") and (word, name) != ("env", "OUTPOST_FENCE"):
                raise UsageError(
                    f"{word}: {name[:80]} belongs to Outpost's own program",
                    hint="give the variable another name, or use the option that says it",
                )
    for name in sorted(options.secrets.keys() & options.env.keys()):
        raise UsageError(f"env and secrets both say {name}", hint="take one of them out")
    for name, said in options.secrets.items():
        _check_secret(f"secrets: {name}", *job.secret_key(said, name))


def _env_hint(word: str) -> str:
    return "write VARIABLE: SECRET/KEY" if word == "secrets" else "write VARIABLE: value"


def _check_secret(what: str, name: str, key: str) -> None:
    hint = "write SECRET/KEY, a Secret's name in the namespace and a key in it; not the value"
    _fits(_DNS_NAME, what, name, hint)
    _fits(_KEY, what, key, hint)


def _check_git(options: Settings) -> None:
    if options.git_credentials and not options.git_credentials[0]:
        raise UsageError(
            "git_credentials is empty", hint="git_credentials: [/path/to/command, argument]"
        )
    if not options.git_secret:
        return
    if options.git_credentials:
        raise UsageError(
            "git_secret and git_credentials are for the same", hint="take one of them out"
        )
    _check_secret("git_secret", *job.secret_key(options.git_secret))


def _check_volumes(options: Settings) -> None:
    hint = "the name of a PersistentVolumeClaim in the namespace"
    if options.volume:
        _fits(_DNS_NAME, "volume", options.volume, hint)
    if options.storage_class:
        _fits(_DNS_NAME, "storage_class", options.storage_class, "kubectl get storageclass")
    if options.rig_cache:
        claim, slash, folder = options.rig_cache.partition("/")
        _fits(_DNS_NAME, "rig_cache", claim, f"{hint}, perhaps with /FOLDER behind it")
        if slash and not all(_FOLDER.fullmatch(part) for part in folder.split("/")):
            raise UsageError(
                f"rig_cache: {folder[:80]!a} is no folder in {claim}",
                hint="write CLAIM/FOLDER, without .. and without a slash at the end",
            )
        if claim == options.volume:
            raise UsageError(
                f"rig_cache and volume are both {claim}, and workers write to the one and not to"
                " the other",
                hint="use two claims",
            )


def _check_scheduling(options: Settings) -> None:
    for what, value in (
        ("service_account", options.service_account),
        ("runtime_class", options.runtime_class),
    ):
        if value:
            _fits(_DNS_NAME, what, value, _NAME_HINT)
    if options.queue:
        _fits(_DNS_LABEL, "queue", options.queue, "the name of a LocalQueue in the namespace")
    _check_labels("node_selector", options.node_selector, own=False)
    for text in options.tolerations:
        toleration(text)
    said = options.priority_class
    classes: Mapping[Any, Any] = said if isinstance(said, Mapping) else {"default": said}
    for key, name in classes.items():
        if key not in _PRIORITIES:
            raise UsageError(
                f"priority_class: {str(key)[:80]!a} is no priority",
                hint=f"one of {', '.join(_PRIORITIES)}, or a class's name alone",
            )
        if not isinstance(name, str):
            raise UsageError(f"priority_class: {key} is no name", hint="kubectl get priorityclass")
        if name:
            _fits(_DNS_NAME, "priority_class", name, "kubectl get priorityclass")


def _check_labels(what: str, labels: Mapping[str, str], *, own: bool) -> None:
    hint = "letters, digits, -, _ and dots, to 63 of them; a key may have a domain: team.example/x"
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise UsageError(f"{what}: {key[:80]!a}: {value[:80]!a} is no label", hint=hint)
        if own and (key in _TAKEN_LABELS or key.startswith(_TAKEN_PREFIXES)):
            raise UsageError(
                f"{what}: {key} belongs to Outpost or to Kueue", hint="give it another name"
            )
    if len(labels) > _MOST_LABELS:
        raise UsageError(f"{what} has {len(labels)} entries, and {_MOST_LABELS} are taken")


def _check_network(options: Settings) -> None:
    for text in options.egress:
        reach.place(text)
    if options.egress and not options.network_policy:
        raise UsageError(
            "egress says what the NetworkPolicy allows besides, and network_policy is false",
            hint="take out egress, or write network_policy: true",
        )


def _check_money(options: Settings) -> None:
    if options.price_per_hour is not None and options.prices:
        raise UsageError(
            "prices and price_per_hour both say what a worker costs", hint="take one of them out"
        )
    price.hourly(options)
    if options.cost_cap_hourly is not None and not price.is_priced(options):
        raise UsageError(
            f"cost_cap_hourly is {options.cost_cap_hourly:g} USD, and nobody says what a worker"
            " costs, so that it would limit nothing",
            hint="write price_per_hour: USD, or prices: {cpu_hour: USD, gib_hour: USD}; max_workers"
            " limits without money",
        )


def _check_template(options: Settings) -> None:
    if options.pod_template is None:
        return
    if not isinstance(options.pod_template, Mapping):
        raise UsageError(
            f"pod_template is {str(options.pod_template)[:60]!a}, and a part of a pod is a map",
            hint="pod_template: {spec: {…}}, as a pod is written",
        )
    order = Order(issue=Issue(id="try"), agent=Agent(argv=("true",)))
    job.job(options, order, hosted=False)


def warnings(options: Settings) -> dict[str, str]:
    """Return for the name of an option what comes of its value, and what to write instead."""
    found: dict[str, str] = {}
    if options.memory < _GIB:
        found["memory"] = (
            f"a worker has {format_bytes(options.memory)}; an agent that runs out of it is killed"
            " with the worker: 2GiB are sensible"
        )
    if options.ephemeral_storage < _GIB:
        found["ephemeral_storage"] = (
            f"clone, build and log of a worker have {format_bytes(options.ephemeral_storage)}; a"
            " pod that writes more is evicted: 10GiB are sensible"
        )
    for name in options.env:
        if _SECRET_WORDS.search(name.upper()):
            found["env"] = (
                f"{name} looks like a secret, and everybody who may look at Jobs sees its value;"
                f" keep it in a Secret, and write secrets: {{{name}: SECRET/KEY}}"
            )
    if options.ttl < 3600:
        found["ttl"] = (
            f"the cluster removes an ended worker after {format_duration(options.ttl)}, and what"
            " nobody has asked for by then is gone, its log for one; a day or more is safe"
        )
    if 0 < options.patience < _NEW_NODE:
        found["patience"] = (
            f"a worker that has no node after {format_duration(options.patience)} is taken back; a"
            " cluster that adds nodes needs minutes for one: 15m, or 0 to wait for ever"
        )
    if options.linger == 0 and not options.volume:
        found["linger"] = (
            "work that no remote took is gone with its pod; write a duration, or volume: CLAIM"
        )
    if (cap := options.cost_cap_hourly) and price.hourly(options) > cap:
        found["cost_cap_hourly"] = (
            f"{cap:g} USD do not take one worker: an hour of it costs {price.hourly(options):.3f}"
        )
    if any(reach.reaches_metadata(text) for text in options.egress):
        found["egress"] = (
            "it lets agents reach the address at which a cloud hands out the login of its machines"
        )
    if loose := loosened(options):
        found["pod_template"] = (
            f"{', '.join(loose)} lets agents out of the container, or the pod does not end by"
            " itself; see what a worker may do in the cluster in the guide"
        )
    return found


def loosened(options: Settings) -> list[str]:
    """Return what of `pod_template` takes away what keeps agents in, or the pod's end."""
    return list(_loosened(options.pod_template))


def _loosened(template: object) -> Iterator[str]:
    spec = template.get("spec") if isinstance(template, Mapping) else None
    if not isinstance(spec, Mapping):
        return
    for key in ("hostNetwork", "hostPID", "hostIPC", "automountServiceAccountToken"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"hostPath of {volume.get('name')}"
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind) or []:
            context = container.get("securityContext") or {}
            capabilities = context.get("capabilities") or {}
            if context.get("privileged") or capabilities.get("add"):
                yield f"securityContext of {container.get('name')}"
            if kind == "containers" and container.get("name") != names.CONTAINER:
                yield (
                    f"the container {container.get('name')} (under initContainers, with"
                    " restartPolicy: Always, it ends with the worker)"
                )
