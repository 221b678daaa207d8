"""Units of measurement that may stand behind a number without changing it."""

from __future__ import annotations

import re

_NAMES = """
mm millimeter millimeters millimetre millimetres | cm centimeter centimeters centimetre centimetres
m meter meters metre metres | km kilometer kilometers kilometre kilometres | in inch inches | ft foot feet
yd yard yards | mi mile miles | mg milligram milligrams | g gram grams | kg kilogram kilograms | lb lbs pound pounds
oz ounce ounces | ms millisecond milliseconds | s sec secs second seconds | min mins minute minutes
h hr hrs hour hours | day days | week weeks | month months | year years | usd dollar dollars | cent cents
eur euro euros | gbp | rs rupee rupees | deg degree degrees | rad radian radians | ml milliliter milliliters
l liter liters litre litres | hz | kw | w watt watts | j joule joules | n newton newtons | pa | mol | k kelvin
unit units | person people | student students | way ways | time times | percent
"""
_CANONICAL: dict[str, str] = {
    name: names.split()[0]
    for line in _NAMES.strip().splitlines()
    for names in line.split("|")
    for name in names.split()
}
_EXPONENT = re.compile(r"\^?\{?([23])\}?$")
_PREFIXES = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}


def canonical(text: str) -> str | None:
    """One name for a unit, however it is written; None if `text` is none.

    >>> canonical("square centimeters"), canonical("km/h"), canonical("xy")
    ('cm2', 'km/h', None)
    """
    parts = [_one(part) for part in re.split(r"/|\bper\b", text.strip().lower())]
    return "/".join(p for p in parts if p) if all(parts) else None


def _one(text: str) -> str | None:
    words = [w.rstrip(".") for w in text.split()]
    power = _PREFIXES.get(words[0], "") if words else ""
    if power:
        words = words[1:]
    name = "".join(words)
    if found := _EXPONENT.search(name):
        name, power = name[: found.start()], found.group(1)
    return _CANONICAL[name] + power if name in _CANONICAL else None
