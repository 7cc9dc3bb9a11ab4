"""What a server says of money, as commands show it: the other way round of `jsonviews`."""

from __future__ import annotations

from outpost_manager.ledger.budgets import Budget, Use
from outpost_manager.ledger.spend import Total
from outpost_manager.managing import Spending
from outpost_manager.placing.forecast import Forecast, Outlook, Sum
from outpost_manager.remote.fields import Fields, NotBelievedError

#: Nano-dollars of a dollar, as `ledger.money` counts.
_NANO = 1_000_000_000


def spending(data: object) -> Spending:
    """Return what was spent, and what it is held to.

    Raises:
        NotBelievedError: it is none.
    """
    said = Fields.of_answer(data)
    return Spending(
        begin=said.moment("since"),
        totals=said.each("totals", total),
        standing={one.text("outpost"): one.real("usd_hourly") for one in said.objects("standing")},
        budgets=said.each("budgets", budget),
        outlook=said.one("forecast", forecast),
    )


def total(data: object) -> Total:
    """Return what some workers cost; raises as `spending` does."""
    said = Fields("a total", data)
    return Total(
        key=said.text("key"),
        workers=said.whole("workers"),
        running=said.whole("running"),
        unknown=said.whole("unknown"),
        machine=said.real("machine_usd"),
        agent=said.real("agent_usd"),
        estimated=said.flag("estimated"),
        input_tokens=said.whole("input_tokens"),
        cached_tokens=said.whole("cached_tokens"),
        output_tokens=said.whole("output_tokens"),
    )


def budget(data: object) -> tuple[Budget, Use]:
    """Return a budget and what its window holds; raises as `spending` does."""
    said = Fields("a budget", data)
    counts = said.within("counts")
    one = Budget(
        name=said.text("name"),
        window=said.text("window"),
        usd=said.real("usd"),
        outpost=counts.words("outpost"),
        rig=counts.words("rig"),
        label=counts.words("label"),
        account=counts.words("account"),
    )
    if one.usd <= 0:
        raise NotBelievedError("a budget holds nothing")
    use = Use(
        cap=round(one.usd * _NANO),
        reserved=_nano(said, "reserved_usd"),
        spent=_nano(said, "spent_usd"),
        standing=_nano(said, "standing_usd"),
    )
    return one, use


def forecast(data: object) -> Forecast:
    """Return what the waiting orders will cost; raises as `spending` does."""
    said = Fields("a forecast", data)
    return Forecast(sum=_sum(said), outlooks=[_outlook(one) for one in said.objects("budgets")])


def _outlook(said: Fields) -> Outlook:
    left = _nano(said, "left_usd")  # of the rest of the budget its own row tells
    return Outlook(
        budget=Budget(name=said.text("name"), window="", usd=0.0),
        use=Use(cap=left, reserved=0, spent=0, standing=0),
        sum=_sum(said),
        fit_at_worst=said.whole("fit_at_worst"),
        fit_usually=said.whole("fit_usually"),
        used_up_at=said.moment_or("used_up_at"),
    )


def _sum(said: Fields) -> Sum:
    return Sum(
        waiting=said.whole("waiting"),
        worst=_nano(said, "worst_usd"),
        usual=_nano(said, "usual_usd"),
        unlimited=said.whole("unlimited"),
        unknown=said.whole("unknown"),
    )


def _nano(said: Fields, key: str) -> int:
    return round(said.real(key) * _NANO)
