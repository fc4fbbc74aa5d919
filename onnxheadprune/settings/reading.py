"""Values of settings from text, as it is typed on a command line: each raises ValueError with a sentence."""

from __future__ import annotations

UNITS = ("heads", "neurons", "layers")
MULTIPLES = {"heads": 1, "neurons": 8}
"""What the number of units that are kept is a multiple of, unless specified otherwise."""


def numbers(text: str) -> tuple[float, ...]:
    """Numbers from "0.485,0.456,0.406"."""
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of numbers like 0.485,0.456,0.406") from None


def share(text: object) -> object:
    """A share from "50%" or "0.5"; what is no text stays as it is."""
    if not isinstance(text, str):
        return text
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a share like 0.25 or 25%") from None


def image_size(text: str) -> tuple[int, int]:
    """Height and width from "224" or "224x192"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{text!r} is not a size like 224 or 224x192")
    return int(parts[0]), int(parts[-1])


def sizes(text: str) -> tuple[int, ...]:
    """Sizes from "1,8"."""
    try:
        found = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers like 1,8") from None
    if min(found) < 1:
        raise ValueError("sizes are numbers from 1 up")
    return tuple(dict.fromkeys(found))


def named_size(text: str) -> dict[str, int]:
    """A name and a size from "height=224"."""
    name, _, size = text.rpartition("=")
    if not name or not size.isdigit() or int(size) < 1:
        raise ValueError(f"{text!r} is not of the form NAME=SIZE")
    return {name: int(size)}


def multiples(text: str) -> dict[str, int]:
    """Numbers by kind of unit from "heads=2,neurons=8"."""
    parts = [item.partition("=") for item in text.split(",")]
    if not all(name in MULTIPLES and number.isdigit() and int(number) for name, _, number in parts):
        raise ValueError(f"{text!r} is not of the form {','.join(f'{k}={n}' for k, n in MULTIPLES.items())}")
    return {name: int(number) for name, _, number in parts}


def unit_kinds(text: str) -> tuple[str, ...]:
    """Kinds of units from "heads,neurons" or "all"; each once, in their order."""
    named = set(UNITS) if text.strip() == "all" else {item.strip() for item in text.split(",")}
    if strange := sorted(named - set(UNITS)):
        raise ValueError(f"units are {', '.join(UNITS)} or all, not {', '.join(strange) or 'nothing'}")
    return tuple(kind for kind in UNITS if kind in named)
