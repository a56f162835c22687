"""How other accounts' work is named: by its name to those that may see all, and to an account not at all."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core.workloads import Gang

ANOTHERS_WORK = "work of another account"
ANOTHER = "another account"
OTHERS = "other accounts"


def may_know(account: str, told_to: str | None) -> bool:
    """Whether the account is named to who is told. `told_to`: an account, None for whoever may see all."""
    return told_to is None or account == told_to


def work(gangs: Sequence[Gang], told_to: str | None) -> list[str]:
    """`job of account` of each, in order; those that are not named once, at the end."""
    named = [f"{gang.id} of {gang.account}" for gang in gangs if may_know(gang.account, told_to)]
    return named if len(named) == len(gangs) else [*named, ANOTHERS_WORK]


def lenders(accounts: Sequence[str]) -> list[str]:
    """Accounts, of which an empty one stands for those that are not named."""
    return [account or OTHERS for account in accounts]
