"""Which language a text is in, and which of its words carry its subject. By scripts, and by the small words of ten languages.

Deterministic and small, so rough: a text of fewer than MIN_WORDS words, or without a clear winner, is of no known language (None), and
nothing follows from that. Languages of one script that are not listed here (Czech, Ukrainian, Persian) are not told apart from their
neighbours: a Cyrillic text is `cyrillic`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

MAX_READ: Final = 3_000  # characters of the beginning, by which a language is told
MIN_WORDS: Final = 6
MIN_LETTERS: Final = 12  # of a script that is not Latin
CLEAR: Final = 1.5  # times as many small words as the next language has
STEM: Final = 6  # letters of a word that count: a plain stand-in for its stem
MAX_WORD: Final = 40

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+(?:[.,]\d+)*")

_SMALL_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": """the a an and or but of to in on at for with by from is are was were be been it its this that these those as not no
        you your i we they he she his her their our my me have has had do does did will would can could should may might if then than
        so what which who when where how why there here about into over also just more most some any all each other such only very
        because while after before between both through during up down out off again""",
        "de": """der die das den dem des ein eine einen einem einer eines und oder aber von zu zum zur im in an am auf für mit bei aus
        ist sind war waren sein wird werden es sie er wir ihr ich du nicht kein keine auch nur noch so wie was wer wann wo warum wenn
        dann als dass ob nach vor über unter durch um bis sich hat haben hatte kann können soll muss man mehr sehr diese dieser dieses
        doch schon hier dort zwischen während weil beim vom mir mich dir dich uns""",
        "fr": """le la les l un une des du de d et ou mais à au aux en dans sur sous pour par avec sans est sont était être il elle ils
        elles on nous vous je tu ne pas plus que qui quoi dont où quand comment pourquoi ce cet cette ces son sa ses leur leurs mon ma
        mes votre vos se si comme aussi très tout tous toute toutes même entre après avant depuis peut peuvent fait faire ont avait
        c'est qu'il n'est j'ai d'un d'une""",
        "es": """el la los las un una unos unas de del y o pero a al en con por para sin sobre es son era fue ser está están hay que
        quien cual cuando donde como cómo qué por qué no sí más muy también se su sus mi tu lo le les me te nos este esta estos estas
        ese esa eso si ya porque entre hasta desde todo todos toda todas puede pueden ha han había cada otro otra""",
        "it": """il lo la i gli le un uno una di del della dei delle dello degli e o ma a al alla ai in nel nella con per da dal dalla su
        sul sulla è sono era essere che chi cosa quando dove come perché non più molto anche si suo sua suoi mio tuo questo questa questi
        queste quello se già tra fra tutto tutti può possono ha hanno ogni altro cui""",
        "pt": """o a os as um uma uns umas de do da dos das e ou mas em no na nos nas com por para pelo pela sem sobre é são era foi ser
        está estão há que quem quando onde como não sim mais muito também se seu sua seus suas meu minha este esta esse essa isso
        isto já porque entre até desde todo todos toda todas pode podem tem têm cada outro você ao à""",
        "nl": """de het een en of maar van te in op aan voor met bij uit door is zijn was waren wordt worden er hij zij ze we wij ik je
        jij u niet geen ook nog maar zo als wat wie wanneer waar hoe waarom dan dat die dit deze om naar over onder tot heeft hebben
        had kan kunnen moet zal zou meer zeer hun hem haar ons tussen omdat""",
        "pl": """i w na z do nie się jest są był była było być to ten ta te tego tej że jak co kto kiedy gdzie dlaczego ale lub oraz
        albo od po przy przez dla za o u ze czy już tylko także bardzo może mogą ma mają jego jej ich który która które tak więc
        ponieważ między pod nad bez""",
        "sv": """och att det som en ett den de i på är var av för med till från inte om men eller så han hon vi ni jag du sig sin sitt
        har hade kan kunde ska skulle vara blir blev när där hur vad vem varför också mycket mer mellan under över efter innan eftersom
        denna detta dessa man""",
        "tr": """ve bir bu şu o da de ile için ama veya ya gibi daha çok en ne kim nasıl neden nerede zaman var yok değil mi mı mu mü
        olan olarak olur oldu her ben sen biz siz onlar kadar sonra önce göre ise ki çünkü hem""",
    }.items()
}

# what asks rather than says what about; left out of a request's subject
_ASKING: frozenset[str] = frozenset(
    """write explain describe give list tell show make create please help need want know answer question summarize summarise summary
    compare name provide using use find following text sentence sentences word words short brief briefly example examples step steps
    reply respond return output generate draft one two three four five six seven eight nine ten first second like good best way ways
    many much get got let difference differences cause causes long
    schreibe erkläre beschreibe nenne gib zeige mache erstelle bitte hilf antworte frage fasse vergleiche finde folgenden text satz
    sätze sätzen wort kurz beispiel beispiele zwei drei vier fünf unterschied unterschiede lange
    écris écrivez explique expliquez décris donne donnez liste montre fais crée aide réponds question résume compare nomme trouve
    phrase phrases mot court exemple exemples deux trois quatre cinq
    escribe explica describe da dame lista muestra haz crea ayuda responde pregunta resume compara nombra encuentra frase frases
    palabra corto breve ejemplo ejemplos dos tres cuatro cinco favor
    scrivi spiega descrivi dai dammi elenca mostra fai crea aiuta rispondi domanda riassumi confronta trova frase frasi parola breve
    esempio esempi due tre quattro cinque
    escreva explique descreva dê liste mostre faça crie ajude responda pergunta resuma compare encontre frase frases palavra curto
    exemplo exemplos dois duas três quatro""".split()
)

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("latin", "A-Za-zÀ-ɏ"),
    ("cyrillic", "Ѐ-ӿ"),
    ("greek", "Ͱ-Ͽ"),
    ("hebrew", "֐-׿"),
    ("arabic", "؀-ۿ"),
    ("devanagari", "ऀ-ॿ"),
    ("thai", "฀-๿"),
    ("hangul", "가-힯"),
    ("kana", "぀-ヿ"),
    ("han", "一-鿿"),
)
_OF_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS}
_UNSPACED = re.compile("[฀-๿぀-ヿ一-鿿]+")

_ALL_SMALL: frozenset[str] = frozenset().union(*_SMALL_WORDS.values())


def words_of(text: str) -> list[str]:
    """Its words and numbers in lower case, in their order. What is written without spaces is one long word here."""
    return [word[:MAX_WORD] for word in WORD.findall(text.lower())]


def script_of(text: str) -> str | None:
    """The script that most of its letters are of. Japanese is `kana`, wherever a tenth of it is; None for too few letters."""
    text = text[:MAX_READ]
    if text.isascii():
        return "latin" if len(_OF_SCRIPT["latin"].findall(text)) >= MIN_LETTERS else None
    counts = {name: len(pattern.findall(text)) for name, pattern in _OF_SCRIPT.items()}
    total = sum(counts.values())
    if total < MIN_LETTERS:
        unspaced = counts["han"] + counts["kana"] + counts["hangul"]
        if unspaced < MIN_LETTERS // 3 or unspaced < total / 2:
            return None
    if counts["kana"] * 10 >= max(1, counts["han"] + counts["kana"]) and counts["han"] + counts["kana"] > total / 2:
        return "kana"
    name, count = max(counts.items(), key=lambda pair: pair[1])
    return name if count * 2 > total else None


def language_of(text: str) -> str | None:
    """A code of a language that is written in Latin letters, else the name of the script; None where it is not clear."""
    text = text[:MAX_READ]
    script = script_of(text)
    if script != "latin":
        return script
    words = Counter(words_of(text))
    if sum(words.values()) < MIN_WORDS:
        return None
    found = sorted(
        ((sum(words[word] for word in small if word in words), language) for language, small in _SMALL_WORDS.items()),
        reverse=True,
    )
    (most, language), (next_most, _) = found[0], found[1]
    return language if most >= 3 and most >= CLEAR * next_most else None


def subject_of(text: str, *, asking: bool = False) -> list[str]:
    """The stems of the words that carry what a text is about, in their order: without the small words, and of a request (`asking`)
    without those that only ask. Of scripts without spaces, pairs of characters."""
    found: list[str] = []
    for word in words_of(text):
        if not word.isascii() and _UNSPACED.search(word):
            for run in _UNSPACED.findall(word):
                found += [run[i : i + 2] for i in range(len(run) - 1)]
            continue
        if word in _ALL_SMALL or (asking and word in _ASKING):
            continue
        if (len(word) > 2 or word.isdigit()) and (word[0].isdigit() or len(word) > 2):
            found.append(_stem(word))
    return found


@lru_cache(maxsize=4096)
def _stem(word: str) -> str:
    plain = "".join([c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c)])
    for ending in ("'s", "’s"):
        plain = plain.removesuffix(ending)
    if len(plain) > 4 and plain.endswith("ies"):
        plain = plain[:-3] + "y"
    elif len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss"):
        plain = plain[:-1]
    return plain[:STEM]
