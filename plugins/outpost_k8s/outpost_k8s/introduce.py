"""`outpost add k8s`: the cluster is looked at, and the price said, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_core.errors import OutpostError
from outpost_k8s import price
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import AbsentError, DeniedError
from outpost_k8s.api.paths import path
from outpost_k8s.near import seen
from outpost_k8s.objects import around, names, permissions
from outpost_shared import border

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.backend import BuildContext, Dialogue
    from outpost_k8s.options import K8sOptions


async def introduce(
    name: str, options: K8sOptions, context: BuildContext, dialogue: Dialogue
) -> Mapping[str, Any]:
    """Show which cluster it is, what is allowed there, and what a worker costs.

    Nothing of it is a condition: what is missing, `outpost bootstrap` makes, and `outpost doctor`
    names.

    Args:
        name: what the outpost will be called.
        options: its options.
        context: where the configuration is.
        dialogue: who is told.

    Returns:
        The context that was the current one, so that the outpost stays at this cluster.

    Raises:
        UsageError: there is no such kubeconfig or context.
        UnreachableError: the cluster does not answer, or does not know who asks.
    """
    cluster = Cluster.of(options.located(context.config_dir), name)
    try:
        version = await cluster.version()
        dialogue.say(
            f"{name}: Kubernetes {version} at {cluster.server} (context {cluster.context})"
        )
        dialogue.say(f"namespace {cluster.namespace}: {await _namespace(cluster)}")
        dialogue.say(await _allowed(cluster))
        if options.queue:
            found = await cluster.serves("kueue.x-k8s.io")
            dialogue.say(f"Kueue: {found or 'is not there, and Jobs would wait in its queue'}")
    finally:
        await cluster.aclose()
    dialogue.say(_price(options))
    pinned = (
        {} if options.context or cluster.context == "in-cluster" else {"context": cluster.context}
    )
    return pinned if options.namespace else pinned | {"namespace": cluster.namespace}


async def _namespace(cluster: Cluster) -> str:
    try:
        found = await cluster.get(path("namespaces", name=cluster.namespace))
    except AbsentError:
        return "is not there; bootstrap makes it"
    except DeniedError:
        return "you may not look at it"
    labels = seen.part(found, "metadata", "labels")
    said = labels.get(around.ENFORCE)
    level = border.line(said, 20) if isinstance(said, str) else "not set"
    whose = "made by Outpost" if labels.get(names.MANAGED_BY) == names.MANAGER else "is there"
    return f"{whose}; Pod Security: {level}"


async def _allowed(cluster: Cluster) -> str:
    try:
        lacking = [
            f"{verb} {each.name}"
            for each in permissions.PERMISSIONS
            if each.needed
            for verb in each.verbs
            if not await cluster.may(verb, each.resource, each.sub, each.group)
        ]
    except OutpostError as error:
        return f"what you may do there cannot be said: {error.message}"
    if not lacking:
        return "you may do all that Outpost needs there"
    more = f" and {len(lacking) - 4} more" if lacking[4:] else ""
    return (
        f"you may not: {', '.join(lacking[:4])}{more}; whoever may runs bootstrap, or gives you"
        f" the Role {around.ACCOUNT}"
    )


def _price(options: K8sOptions) -> str:
    if not price.is_priced(options):
        return (
            "a worker there counts as free: price_per_hour, or prices by cores and memory, say what"
            " one costs, and cost_cap_hourly limits it"
        )
    hour = price.hourly(options)
    cap, most = options.cost_cap_hourly, options.max_workers
    text = f"a worker costs {hour:.3f} USD an hour"
    if cap is not None:
        return f"{text}, and all of them never more than {cap:g} in any hour (cost_cap_hourly)"
    if most is None:
        return f"{text}, and nothing limits them: --max-workers and --cost-cap-hourly do"
    return f"{text}, {most} at once {hour * most:.2f} (--cost-cap-hourly sets a limit)"
