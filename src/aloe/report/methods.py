"""How attribution methods are called and drawn: titles as in `aloe.attribution.methods` (which needs torch, a report does
not), and for each one colour (Okabe and Ito's, then brown and grey) and one marker in every picture."""

from __future__ import annotations

from dataclasses import dataclass

INHERENT = "inherent"
PAPER = "@paper"  # behind the key of a method that ran with the paper's options where they are not ours


@dataclass(frozen=True)
class Look:
    """`short` is the heading that Table B6 has room for."""

    title: str
    short: str
    colour: str
    marker: str


LOOKS = {
    INHERENT: Look("W(x)x", "W(x)x", "#0072b2", "*"),
    "attnlrp": Look("AttnLRP", "LRP", "#d55e00", "o"),
    "intgrad": Look("Integrated Gradients", "IG", "#e69f00", "s"),
    "legrad": Look("LeGrad", "LeG", "#009e73", "^"),
    "chefercam": Look("CheferCAM", "Chf", "#56b4e9", "D"),
    "lime": Look("LIME", "LIME", "#cc79a7", "v"),
    "inputxgrad": Look("Input x gradient", "IxG", "#000000", "P"),
    "rollout": Look("Attention rollout", "Rollout", "#8c6d31", "X"),
    "random": Look("Random", "Random", "#999999", "h"),
}


def look(key: str) -> Look:
    """A method's look; with the paper's options the colour is lighter; one that is not known is black and goes by its key."""
    base, paper, _ = key.partition(PAPER)
    if paper and base in LOOKS:
        plain = LOOKS[base]
        return Look(f"{plain.title}, paper's options", f"{plain.short} (paper's)", _lighter(plain.colour), plain.marker)
    return LOOKS.get(key) or Look(key, key, "#444444", "d")


def rank(key: str) -> tuple[int, str]:
    """For sorting: the order of tables and pictures, then other methods by name."""
    base = key.partition(PAPER)[0]
    return ([*LOOKS, base].index(base), key)


def _lighter(colour: str) -> str:
    """Half way to white."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{(red + 255) // 2:02x}{(green + 255) // 2:02x}{(blue + 255) // 2:02x}"
