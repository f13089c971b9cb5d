"""Stops that end no sentence: those of abbreviations, initials and numbers, told by the words around them."""

from __future__ import annotations

import re

_LONGEST = 16
"""Characters of an abbreviation."""
_EDGES = re.compile(r"[\s\"“”„«»‹›‘‚()\[\]{}/–—\-*_`,;:]")
_WORD = re.compile(r"\w{1,20}")
_ROMAN_DIGITS = frozenset("IVXLC")
_IDEOGRAPHS = "\u2e80"
"""The first of them; one of these, or of Hangul's syllables, may be a word."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONTINUED = _words(
    """
    mr mrs ms mx messrs dr drs prof gen col lt maj sgt cpl capt cmdr adm rev hon pres gov sen rep supt fr sra srta
    mme mlle m dott sig vs v e.g i.e viz cf z.b d.h u.a p.ej vgl bzw bspw dhr mevr проф акад डॉ प्रो
    """
)
"""Abbreviations that no sentence ends with."""
_ABBREVIATIONS = _words(
    """
    st ste mt ft jr sr bros co corp inc ltd plc dept univ inst assn assoc est approx ca esp etc al ed eds resp ave
    blvd rd hwy op cit ibid incl excl tel bldg calif conn fla tenn ala minn wis okla gmbh ag usw ggf evtl inkl zzgl
    hrsg str sog ehem geb jh mio mrd tsd env av hab ud uds lic ing aprox bijv enz ee uu г гг им ул св тыс млн млрд
    руб др см
    """
)
"""Abbreviations that may end one: the next word decides."""
_NUMBERED = _words(
    """
    no nos nr núm num n° p pp pg pág fig figs eq eqs vol vols ch chap sec sect art arts abs abb tab taf ex app ver
    cap par para pt bd kap jan feb mar apr jun jul aug sep sept oct nov dec рис табл стр гл ст
    """
)
"""Abbreviations before a number, and words elsewhere."""
_BEFORE_NUMBERS = _CONTINUED | _ABBREVIATIONS | _NUMBERED
_UNITS = _words(
    """
    m g l s h k v w in ft mi yd lb lbs oz kg mg km cm mm hr hrs min sec mph pt gal sq cu hz db kb mb gb
    """
)
_AFTER_ORDINALS = _words(
    """
    januar februar märz april mai juni juli august september oktober november dezember jahrhundert jahrhunderts jh
    """
)
"""German, whose ordinal numbers end in a stop."""
_STARTERS = _words(
    """
    the a an he she it they we i you his her its their our my your this that these those there here in on at by for
    from with to of as if when while where after before during since although though because but and or so yet
    however nor again later today still finally another other such only even within without through unlike moreover
    therefore thus then also both each some many most several all no not one two what who why how which is are was
    were do does did has have had can could will would should let according until under over between among despite
    er sie es wir ein eine einen und aber im am bei mit nach zu für als wenn dies diese dieser dieses auch nur él
    ella este esta estos en por para con cuando como se su pero ce cette ces elle il ils elles nous vous dans pour
    avec mais questo questa nel nella ma um uma ele ela em com mas het een hij zij maar dit deze в на и он она они
    это но а с по
    """
)
"""Words that begin a sentence, and are no names."""
_ARTICLES = _words("der die das den el la los las le les un une lo gli de het o os as")
"""Words that begin a sentence, and stand in names as well."""
_KNOWN = _BEFORE_NUMBERS | _UNITS


def is_full_stop(text: str, low: int, at: int, begin: int, *, is_closed: bool, is_uncased: bool) -> bool:
    """Say whether a stop ends a sentence, and not only an abbreviation.

    Args:
        text: The text.
        low: Where its paragraph begins.
        at: Where the stop is, a single one.
        begin: Where the next word begins, which is no word that goes on a sentence by its small letter.
        is_closed: Whether a quote or bracket is closed between the two.
        is_uncased: Whether the paragraph has no capital letters at all.
    """
    word, start = _word_before(text, low, at)
    # Most words are no abbreviation, whatever comes next.
    if len(word) > 1 and word.isalpha() and word not in _KNOWN:
        return True
    match = _WORD.match(text, begin)
    following = match.group() if match else ""
    is_dotted = text.startswith(".", begin + len(following))
    is_start = following.lower() in _STARTERS and not is_dotted
    unit = word.lstrip("0123456789.,")
    if unit in _UNITS and (unit != word or text[max(start - 2, low) : start].strip()[-1:].isdigit()):
        return not following[:1].isdigit()
    if following[:1].isdigit():
        return not (word in _BEFORE_NUMBERS or _is_initials(word) or (word.isdigit() and len(word) <= 2))
    if word in _NUMBERED and len(following) > 1 and _ROMAN_DIGITS.issuperset(following):
        return False
    if word in _CONTINUED:
        return is_closed and is_start
    if word in _ABBREVIATIONS:
        return is_start or (following.lower() in _ARTICLES and not is_dotted)
    if word.isdigit() and len(word) <= 2:
        return following.lower() not in _AFTER_ORDINALS
    if len(word) == 1 and text[at - 1].islower() and not is_uncased:
        return not (is_dotted and len(following) <= 3)  # "x. Then", but "z. B."
    return is_start or not _is_initials(word)


def _word_before(text: str, low: int, at: int) -> tuple[str, int]:
    """Give the word that a stop follows, in small letters, and where it starts; a long one is cut."""
    near = text[max(low, at - _LONGEST) : at]
    word = "" if near[-1:].isspace() else near.rpartition(" ")[2]
    if not word.isalpha():
        word = _EDGES.split(word)[-1].lstrip("'’")
    return word.lower(), at - len(word)


def _is_initials(word: str) -> bool:
    """Whether a word before a stop may be initials, or letters that stand for words: J, U.S, Ph.D."""
    if word[:1] >= _IDEOGRAPHS:
        return False
    parts = word.split(".")
    longest = 1 if len(parts) == 1 else 2
    return all(part.isalpha() and len(part) <= longest for part in parts)
