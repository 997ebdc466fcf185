"""What an answer is held against: the request, read once for it, from the body in OpenAI's chat format.

Long requests are read in part: of the last question and of what stands before it, their beginnings and ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from proxy.quality.languages import language_of, subject_of
from proxy.quality.sample import ends

MAX_QUESTION: Final = 3_000  # characters
MAX_CONTEXT: Final = 6_000
MAX_TOOLS: Final = 128
ENOUGH_TERMS: Final = 4  # a question with fewer is read together with what stands before it

# A sentence that begins so asks about a thing and not for it, and one that explains it either.
_ABOUT = re.compile(
    r"\W*(?:what|how|why|when|which|who|where|is|are|does|do|did|was|were|explain|define|wie|warum|wann|wer|wo|"
    r"wozu|ist|sind|erkläre?|comment|pourquoi|quand|qu['’]|quel\w*|explique\w*|qué|cómo|por qué|cuál|cuando|explica|"
    r"che|come|perché|quale|spiega|o que|como|por que|explique|hoe|waarom|wat)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？\n]")
_JSON_IN_WORDS = re.compile(
    r"\b(?:as|in|into|with|valid|only|return|output|reply|respond|en|als|im|gib|au format|en formato|in formato)\s+"
    r"(?:with\s+|a\s+|an\s+|valid(?:es)?\s+|pure\s+){0,3}json\b"
    r"|\bjson\s+(?:object|array|only|format|objekt|objeto|objet)\b|JSON ?(?:で|形式|格式)|JSON格式",
    re.IGNORECASE,
)
_NUMBERS: Mapping[str, int] = {
    word: number
    for number, words in {
        2: "two zwei deux dos due dois duas twee",
        3: "three drei trois tres tre três drie",
        4: "four vier quatre cuatro quattro quatro",
        5: "five fünf cinq cinco cinque vijf",
        6: "six sechs seis sei zes",
        7: "seven sieben sept siete sette zeven",
        8: "eight acht huit ocho otto oito",
        9: "nine neun neuf nueve nove negen",
        10: "ten zehn dix diez dieci dez tien",
    }.items()
    for word in words.split()
}
# things that an answer has as many of as it was asked for, one by one
_THINGS = (
    "reasons?|ways|examples?|ideas|tips|steps|points|items|benefits|advantages|disadvantages|differences|options|suggestions|facts|"
    "questions|names|titles|slogans|bullet points|bullets|gründe|beispiele|ideen|tipps|schritte|punkte|vorteile|nachteile|vorschläge|"
    "unterschiede|namen|raisons|exemples|idées|conseils|étapes|avantages|différences|suggestions|razones|ejemplos|ideas|consejos|pasos|"
    "ventajas|diferencias|sugerencias|ragioni|motivi|esempi|idee|consigli|passi|vantaggi|razões|motivos|exemplos|ideias|dicas|passos|"
    "vantagens|redenen|voorbeelden|tips|stappen|voordelen"
)
_SO_MANY = re.compile(rf"\b(\d{{1,2}}|{'|'.join(_NUMBERS)})\s+(?:[^\W\d_]+[\s-]+){{0,2}}?(?:{_THINGS})\b", re.IGNORECASE)
_NUMBERED = re.compile(r"(?m)^[ \t]*(\d{1,2})[.)]\s+\S")
_MAKE = (
    r"\b(?:write|create|implement|generate|provide|make|build|develop|draw|give|show|need|want|put|present|format|list|schreibe?|erstelle?|"
    r"mache?|zeige?|gib|écri\w*|donne\w*|fais|crée\w*|montre\w*|escribe|crea|haz|muestra|dame|scrivi|fai|mostra\w*|escreva|crie|faça|"
    r"mostre|schrijf|maak)\b"
)
_TABLES = r"(?:table|tabelle|tableau|tabla|tabella|tabela|tabel)"
_TABLE = re.compile(
    rf"{_MAKE}[^.?!\n]{{0,60}}\b{_TABLES}\b(?!\s+(?:tennis|of contents|named|with the columns|for))"
    r"|\b(?:as an?|in an?|in|als|in einer|in form einer|sous forme de|dans un|en una|en un|como|in una|em uma|numa)\s+"
    rf"(?:markdown[ -])?{_TABLES}\b"
    r"(?! (?:tennis|of contents))|(?:用|以)[^。\n]{0,6}表格",
    re.IGNORECASE,
)
_LANGUAGE_NAMES = tuple("python javascript typescript java c++ c# rust golang sql bash ruby php kotlin swift html css".split())
_LANGUAGES = f"(?:{'|'.join(map(re.escape, _LANGUAGE_NAMES))})"
_PROGRAM = r"(?:function|script|program|code|class|regex|query|snippet|one-liner|funktion|programm|skript|fonction|función|funzione|função)"
_CODE = re.compile(
    rf"{_MAKE}[^.?!\n]{{0,60}}"
    rf"(?:\b{_PROGRAM}\b[^.?!\n]{{0,60}}(?<!\w){_LANGUAGES}(?!\w)|(?<!\w){_LANGUAGES}(?!\w)[^.?!\n]{{0,30}}\b{_PROGRAM}\b)",
    re.IGNORECASE,
)
_OTHER_TONGUE = re.compile(
    r"\b(?:translat\w*|übersetz\w*|tradu\w*|vertaal\w*|przetłumacz|çevir\w*|english|german|french|spanish|italian|portuguese|dutch|"
    r"polish|russian|japanese|chinese|korean|latin|arabic|hindi|turkish|swedish|greek|englisch\w*|deutsch\w*|französisch\w*|"
    r"spanisch\w*|italienisch\w*|anglais\w*|allemand\w*|français\w*|espagnol\w*|inglés|alemán|francés|español|inglese|tedesco|francese|inglês|alemão|engels|duits|engelska|"
    r"İngilizce|niemiecki|angielski\w*)\b|翻译|翻訳|英語|英语|перевед|английск|번역|영어",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """`terms`: the stems of what the request is about; `all_terms`: of everything that was sent, as far as it was read. `parts`: how
    many things it wants, one by one, None where it does not say. `limited`: the caller set a limit to the answer's length. `open`: the
    answer may be in any language. `tools`: the functions that were offered, by name, with the schema of their parameters."""

    terms: frozenset[str]
    all_terms: frozenset[str]
    language: str | None
    open: bool
    json: Literal["no", "words", "mode"] = "no"
    schema: Any = None
    parts: int | None = None
    table: bool = False
    code: bool = False
    limited: bool = False
    tools: Mapping[str, Any] = field(default_factory=dict)


def read_asked(body: Mapping[str, Any]) -> Asked:
    """Never raises for a request that was let in."""
    messages = body.get("messages")
    turns = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    last = next((n for n in range(len(turns) - 1, -1, -1) if turns[n].get("role") == "user"), None)
    question = _text(turns[last]) if last is not None else ""
    others = "\n".join([_text(turn) for n, turn in enumerate(turns) if n != last])
    system = "\n".join([_text(turn) for turn in turns if turn.get("role") in ("system", "developer")])
    shown, around = ends(question, MAX_QUESTION), ends(others, MAX_CONTEXT)
    terms = subject_of(shown, asking=True)
    if len(set(terms)) < ENOUGH_TERMS:
        terms += subject_of(around, asking=True)
    mode, schema = _format(body)
    if mode == "no" and (_is_wanted(_JSON_IN_WORDS, shown, "json") or _is_wanted(_JSON_IN_WORDS, system[:MAX_QUESTION], "json")):
        mode = "words"
    so_many = _SO_MANY.search(shown)
    numbered = [int(number) for number in _NUMBERED.findall(shown)]
    parts = None
    if so_many is not None:
        word = so_many[1].lower()
        parts = int(word) if word.isdigit() else _NUMBERS[word]
    elif len(numbered) > 1 and numbered == list(range(1, len(numbered) + 1)):
        parts = len(numbered)
    return Asked(
        terms=frozenset(terms),
        all_terms=frozenset([*subject_of(shown), *subject_of(around)]),
        language=language_of(shown),
        open=_OTHER_TONGUE.search(shown) is not None or _OTHER_TONGUE.search(system[:MAX_QUESTION]) is not None,
        json=mode,
        schema=schema,
        parts=parts if parts is not None and 2 <= parts <= 50 else None,
        table=_is_wanted(_TABLE, shown, "tab", "表格"),
        code=_is_wanted(_CODE, shown, *_LANGUAGE_NAMES),
        limited=any(body.get(name) is not None for name in ("max_tokens", "max_completion_tokens")),
        tools=dict(_tools(body)),
    )


def _is_wanted(thing: re.Pattern[str], text: str, *parts: str) -> bool:
    """Whether a sentence asks for it, rather than about it. One of `parts` is in every text that has it, which is quicker to see."""
    lower = text.lower()
    if not any(part in lower for part in parts):
        return False
    for found in thing.finditer(text):
        starts = [end.end() for end in _SENTENCE_END.finditer(text, 0, found.start())]
        if _ABOUT.match(text, starts[-1] if starts else 0) is None:
            return True
    return False


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join([text for text in texts if isinstance(text, str)])


def _format(body: Mapping[str, Any]) -> tuple[Literal["no", "words", "mode"], Any]:
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return "no", None
    described = wanted.get("json_schema")
    return "mode", described.get("schema") if isinstance(described, dict) else None


def _tools(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    tools = body.get("tools")
    for tool in tools[:MAX_TOOLS] if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"], function.get("parameters")
