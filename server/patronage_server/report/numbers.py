"""How numbers read: money from integers alone, utility on the scale that people know, time in UTC."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from patronage_protocol.manifest import PayoutTerms
from patronage_protocol.valuation.utilities import Utility

__all__ = [
    "THIN",
    "UtilityScale",
    "count",
    "duration",
    "entries",
    "grouped",
    "moment",
    "money",
    "part_of",
    "percent",
    "places_for",
    "signed",
]

THIN = "\u202f"
"""A narrow space that does not break."""
MINUS = "\u2212"


def grouped(number: int) -> str:
    """An integer in groups of three digits."""
    return f"{number:,}".replace(",", THIN).replace("-", MINUS)


def count(number: int, noun: str) -> str:
    """`3 owners`, `1 owner`."""
    return f"{grouped(number)} {noun}{'' if number == 1 else 's'}"


def entries(number: int) -> str:
    """`35 entries`, `1 entry`."""
    return "1 entry" if number == 1 else f"{grouped(number)} entries"


def money(amount: int, terms: PayoutTerms) -> str:
    """An amount in minor units, to the unit, with its currency."""
    whole, minor = divmod(abs(amount), 10**terms.exponent)
    decimals = f".{minor:0{terms.exponent}}" if terms.exponent else ""
    return f"{MINUS if amount < 0 else ''}{grouped(whole)}{decimals}\u00a0{terms.currency}"


def part_of(amount: int, whole: int) -> str:
    """A part of an amount in per cent to one decimal, half up, in integers; empty if there is no whole."""
    if whole <= 0:
        return ""
    tenths = (2000 * abs(amount) + whole) // (2 * whole)
    return f"{MINUS if amount < 0 else ''}{grouped(tenths // 10)}.{tenths % 10}{THIN}%"


def percent(fraction: float, places: int = 1) -> str:
    """A fraction in per cent."""
    return f"{_fixed(100 * fraction, places)}{THIN}%"


def signed(number: float, places: int) -> str:
    """A number with its sign; what rounds to zero has none."""
    text = _fixed(number, places)
    return f"+{text}" if number > 0 and _shows_something(text) else text


def places_for(numbers: Iterable[float], *, digits: int = 3, least: int = 1) -> int:
    """Decimals that give the largest of the numbers so many digits."""
    largest = max((abs(number) for number in numbers), default=0.0)
    if largest == 0:
        return least
    return min(max(digits - 1 - math.floor(math.log10(largest)), least), 9)


def moment(time: int) -> str:
    """Unix seconds as a date and time in UTC."""
    try:
        return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # beyond the calendar; a ledger may hold any integer
        return f"Unix time {grouped(time)}"


def duration(seconds: int) -> str:
    """A length of time in its two largest units."""
    sizes = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
    parts = []
    left = seconds
    for unit, size in sizes.items():
        number, left = divmod(left, size)
        if number:
            parts.append(f"{grouped(number)}{THIN}{unit}")
    return " ".join(parts[:2]) or f"0{THIN}s"


@dataclass(frozen=True)
class UtilityScale:
    """How a utility is shown: shares as differences, coalitions as levels.

    Attributes:
        utility: the manifest's.
        places: decimals of a difference.
        level_places: decimals of a level.
        base: the reward of the base model under the utility `reward`.
    """

    utility: Utility | Literal["reward"]
    places: int
    level_places: int
    base: float = 0.0

    @classmethod
    def fitting(
        cls,
        utility: Utility | Literal["reward"],
        differences: Iterable[float],
        grand: float,
        base: float = 0.0,
    ) -> "UtilityScale":
        """The scale on which these differences, and v(N), can be read."""
        factor = _factor(utility)
        least = 1 if factor > 1 else 3
        places = places_for((factor * number for number in differences), least=least)
        return cls(utility, places, max(least, places_for([factor * grand], digits=2, least=least)), base)

    @property
    def measure(self) -> str:
        """What a level is."""
        return {
            "sigmoid": "expected preference accuracy",
            "log_sigmoid": "preference loss",
            "win": "preference accuracy",
            "reward": "expected reward",
        }[self.utility]

    @property
    def unit(self) -> str:
        """The unit of a difference."""
        if self.utility == "reward":
            return "reward"
        return "nats" if self.utility == "log_sigmoid" else "points"

    def in_units(self, difference: float) -> float:
        """A difference of utility in `unit`."""
        return _factor(self.utility) * difference

    def difference(self, difference: float) -> str:
        """A difference with its sign, without unit."""
        return signed(self.in_units(difference), self.places)

    def size(self, difference: float) -> str:
        """A positive difference with its unit."""
        return f"{_fixed(self.in_units(difference), self.places)} {self.unit}"

    def interval(self, lower: float, upper: float) -> str:
        """Two bounds."""
        return f"{self.difference(lower)} to {self.difference(upper)}"

    def level(self, utility: float) -> str:
        """Where a coalition of that utility stands; the base model stands at utility 0."""
        if self.utility == "log_sigmoid":
            return f"{_fixed(math.log(2) - utility, self.level_places)} nats"
        if self.utility == "reward":
            return _fixed(self.base + utility, self.level_places)
        return percent(utility + 0.5, self.level_places)


def _factor(utility: Utility | Literal["reward"]) -> int:
    return 1 if utility in ("log_sigmoid", "reward") else 100


def _fixed(number: float, places: int) -> str:
    text = f"{number:,.{places}f}".replace(",", THIN)
    return text.replace("-", MINUS if _shows_something(text) else "")


def _shows_something(text: str) -> bool:
    """Whether any digit of a number is not zero."""
    return any(digit in text for digit in "123456789")
