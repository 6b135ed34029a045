"""The prompts that the segmentation network is trained on: three meanings, many ways to say each."""

from dataclasses import dataclass

import numpy as np

MEANINGS = ("all", "major", "fine")

_POLITE = ("", "", "", "please ", "can you ", "could you please ", "now ", "you should ")
_VERBS = (
    "segment",
    "outline",
    "mark",
    "delineate",
    "extract",
    "find",
    "show",
    "highlight",
    "label",
    "detect",
    "trace",
    "map",
    "identify",
    "select",
    "locate",
)
_ENDINGS = (
    "",
    "",
    "",
    " in this image",
    " in the image",
    " of the retina",
    " in the fundus photograph",
    " in this fundus image",
    " of this eye",
    " here",
    " in the picture",
    " in the retina",
)
_THINGS = (
    "vessels",
    "blood vessels",
    "retinal vessels",
    "retinal blood vessels",
    "vasculature",
    "vessel tree",
    "vascular tree",
    "retinal vasculature",
    "vessel network",
    "veins and arteries",
    "arteries and veins",
    "arterioles and venules",
    "vessel",
)
_QUALIFIERS = {
    "all": (
        "",
        "",
        "",
        "",
        "all ",
        "every ",
        "the complete ",
        "the whole ",
        "the entire ",
        "all visible ",
        "all thick and thin ",
        "all major and minor ",
        "all large and small ",
        "the full ",
    ),
    "major": (
        "major ",
        "main ",
        "large ",
        "thick ",
        "big ",
        "wide ",
        "principal ",
        "largest ",
        "thickest ",
        "major trunk ",
        "thickest main ",
        "primary ",
        "prominent ",
        "dominant ",
        "only the major ",
        "only the large ",
        "only the main ",
        "only the thick ",
        "only the thick main ",
        "thick main ",
        "only the thickest ",
    ),
    "fine": (
        "fine ",
        "finest ",
        "thin ",
        "small ",
        "tiny ",
        "narrow ",
        "minor ",
        "thinnest ",
        "smallest ",
        "delicate ",
        "capillary ",
        "peripheral fine ",
        "only the fine ",
        "only the thin ",
        "only the small ",
    ),
}
_NOUNS = {
    "all": (),
    "major": ("trunks", "vessel trunks", "arcades", "vascular arcades", "main arcades", "main trunks"),
    "fine": ("capillaries", "small branches", "fine branches", "thin branches", "twigs", "side branches"),
}
_ADDITIONS = {
    "all": (
        "",
        "",
        "",
        "",
        " including capillaries",
        " including the fine ones",
        " including the fine capillaries",
        " including thin branches",
        " including the finest branches",
        " down to the smallest branches",
        " large and small",
        " and their branches",
    ),
    "major": (
        "",
        "",
        "",
        " only",
        " without the small branches",
        " and ignore fine vessels",
        " but not the capillaries",
    ),
    "fine": (
        "",
        "",
        "",
        " only",
        " without the main trunks",
        " and ignore large vessels",
        " but not the arcades",
    ),
}


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for (an index into MEANINGS)."""

    text: str
    meaning: int


def draw_prompt(rng: np.random.Generator, meaning: int) -> Prompt:
    """Draw one way of asking for a meaning."""
    name = MEANINGS[meaning]

    def one(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    if name == "all" and rng.uniform() < 0.08:
        return Prompt("Please segment the retinal blood vessels.", meaning)
    if _NOUNS[name] and rng.uniform() < 0.25:
        thing = one(_NOUNS[name])
    else:
        thing = one(_QUALIFIERS[name]) + one(_THINGS)
    article = "" if rng.uniform() < 0.3 or thing.startswith(("the ", "all ", "every ", "only ")) else "the "
    verb = "" if rng.uniform() < 0.12 else one(_POLITE) + one(_VERBS) + " "
    return Prompt(f"{verb}{article}{thing}{one(_ADDITIONS[name])}{one(_ENDINGS)}", meaning)


def vocabulary() -> list[str]:
    """Return every word the templates can say, sorted, so that equal templates give an equal tokenizer."""
    phrases = [*_POLITE, *_VERBS, *_ENDINGS, *_THINGS, "the", "please segment the retinal blood vessels"]
    for table in (_QUALIFIERS, _NOUNS, _ADDITIONS):
        phrases += [phrase for phrases_of_meaning in table.values() for phrase in phrases_of_meaning]
    return sorted({word for phrase in phrases for word in phrase.lower().split()})
