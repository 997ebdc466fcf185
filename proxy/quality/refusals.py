"""Whether a text is a refusal: by the ways in which models begin one, in a dozen languages.

A refusal says so in its first sentences and is short. One that begins like that and goes on at length has perhaps helped after all.
Limits: a refusal in other words is not found, and a text that was asked for and sounds like one (a letter that declines) is taken for it
if it begins so, unless it has the head of a letter.
"""

from __future__ import annotations

import re
from typing import Final, Literal

HEAD: Final = 240  # characters of the beginning in which it is looked for
SHORT_WORDS: Final = 90
SHORT_CHARS: Final = 600  # for what is written without spaces

_HELP = (
    r"help|assist|do that|fulfil+|comply|provide|answer|create|generate|write|engage|support|discuss|share|give|continue|complete|"
    r"process|offer|advise|produce|participate|be able|open|access|browse"
)
_HELFEN = "helfen|beantworten|unterstützen|erfüllen|schreiben|erstellen|geben|bereitstellen|weiterhelfen"
_ICH_NICHT = (
    r"\bich (?:kann|darf|werde) (?:dir |ihnen |dabei |hierbei |das |diese[rsn]? \w+ )*(?:leider )?(?:nicht|keine?n?) [^.]{0,60}"
)
_SORRY = r"\bi(?:['’]m| am) (?:really |very |so )?(?:sorry|afraid)[,.]?\s*(?:but )?(?:i |that )*"
_CANNOT = r"(?:can(?:['’]t|not)|won['’]t|am not able|am unable|must decline)"
_AS_AN_AI = r"\bas an ai(?: language model| assistant| model)?,? "
_PATTERNS = (
    # English
    _SORRY + _CANNOT,
    rf"\bi(?: really)? (?:can(?:['’]t|not)|won['’]t|will not|am (?:not able|unable) to) (?:\w+ )?(?:{_HELP})\b",
    rf"\bi['’]m (?:not able|unable) to (?:\w+ )?(?:{_HELP})\b",
    _AS_AN_AI + r"i (?:can(?:['’]t|not)|do not|don['’]t|am not|am unable)",
    _AS_AN_AI + r"it (?:is|would be)",
    r"\bi must (?:respectfully )?decline\b",
    r"\bi(?:['’]d| would) (?:rather|prefer) not\b",
    r"\b(?:against|violates?) (?:my|our|the) (?:\w+ )?(?:guidelines|policy|policies|programming)\b",
    r"\bi(?:['’]m| am) not (?:comfortable|permitted|allowed|programmed)\b",
    rf"\bnot something (?:that )?i(?: can|['’]m able to|['’]m comfortable) (?:{_HELP})",
    # German
    r"\b(?:es tut mir leid|tut mir leid|entschuldigung|leider)[,.]? ?(?:aber )?(?:ich )?(?:kann|darf|möchte) (?:ich )?[^.]{0,60}\bnicht\b",
    r"\b(?:es tut mir leid|tut mir leid|leider)[,.]? ?(?:aber )?[^.]{0,40}\b(?:kann|darf) ich\b[^.]{0,60}\b(?:nicht|keine?n?)\b",
    _ICH_NICHT + f"(?:{_HELFEN})",
    r"\bich (?:kann|darf) (?:dir|ihnen|dabei|hierbei|damit)[^.]{0,30}nicht (?:weiter)?helfen",
    r"\bals (?:ki|sprachmodell)[^.]{0,40}\b(?:kann|darf) ich\b[^.]{0,60}\b(?:nicht|keine?)\b",
    # French
    r"\b(?:je suis )?(?:vraiment )?(?:désolée?|navrée?)[,.]? ?(?:mais )?je ne (?:peux|suis|pourrai)",
    r"\bje ne (?:peux|suis) pas (?:vous |t['’]|te |en mesure |capable )?(?:aider|de|répondre|fournir|d['’])",
    r"\ben tant qu['’](?:ia|intelligence|assistant|modèle)[^.]{0,60}\bje ne (?:peux|suis)",
    # Spanish
    r"\b(?:lo siento|lamento|disculpa)[,.]? ?(?:pero )?(?:no (?:puedo|me es posible|estoy))",
    r"\bno puedo (?:ayudar\w*|proporcionar\w*|cumplir|responder|asistir\w*|generar|crear|escribir)\b",
    r"\bcomo (?:ia|modelo de lenguaje|asistente)[^.]{0,60}\bno puedo\b",
    # Portuguese
    r"\b(?:desculpe|sinto muito|lamento|peço desculpas?)[,.]? ?(?:mas )?(?:eu )?não (?:posso|consigo)",
    r"\bnão (?:posso|consigo) (?:ajudar|fornecer|responder|atender|criar|escrever|gerar)\b",
    # Italian
    r"\b(?:mi dispiace|spiacente|sono spiacente)[,.]? ?(?:ma )?non (?:posso|sono)",
    r"\bnon posso (?:aiutar\w*|fornir\w*|rispondere|soddisfare|scrivere|creare|generare)\b",
    # Dutch
    r"\b(?:het spijt me|sorry|helaas)[,.]? ?(?:maar )?(?:ik )?kan (?:ik )?[^.]{0,50}\bniet\b",
    r"\bik kan (?:je |u |hier |daar )*[^.]{0,20}niet (?:mee |bij )?helpen",
    # Polish, Swedish, Turkish
    r"\b(?:przykro mi|przepraszam|niestety)[,.]? ?(?:ale )?nie mogę",
    r"\b(?:tyvärr|jag är ledsen|ledsen)[,.]? ?(?:men )?(?:jag )?kan (?:jag )?(?:inte|tyvärr)",
    r"\b(?:üzgünüm|maalesef)[,.]? ?[^.]{0,60}(?:yardımcı olamam|yapamam|veremem|edemem)",
    # Russian
    r"(?:извините|простите|к сожалению|сожалею)[,.]? ?(?:но )?(?:я )?не (?:могу|имею)",
    r"\bя не могу (?:помочь|выполнить|предоставить|ответить|написать|создать)",
    # Chinese, Japanese, Korean
    r"(?:抱歉|对不起|對不起|很遗憾)[,，。]?[^。]{0,20}(?:无法|不能|無法|没有办法)",
    r"我(?:无法|不能|無法)(?:帮助|协助|提供|回答|满足|完成|協助)",
    r"(?:申し訳(?:ありません|ございません)|すみません|ごめんなさい)[^。]{0,50}(?:できません|いたしかねます|できかねます|お答えできない)",
    r"(?:お手伝い|お答え|対応|提供)(?:すること)?(?:は|が)?(?:できません|いたしかねます|できかねます)",
    r"죄송(?:하지만|합니다)[^.]{0,60}(?:수 없습니다|드릴 수 없|없어요)",
    # Arabic, Hindi
    r"(?:آسف|أعتذر|عذراً|عذرا)[^.]{0,40}(?:لا أستطيع|لا يمكنني|لا يمكن)",
    r"(?:क्षमा करें|माफ़ करें|खेद है)[^।]{0,80}(?:नहीं कर सकता|नहीं दे सकता|असमर्थ|नहीं कर सकती)",
)
_LETTER = re.compile(
    r"\W*(?:subject|betreff|objet|asunto|oggetto|assunto|onderwerp|temat|ämne|konu|тема|件名|主题|主旨|제목)\s?[:：]"
    r"|\W*(?:dear|sehr geehrte[rs]?|liebe[rs]?|chère?|estimad[oa]s?|querid[oa]s?|gentile|egregio|car[oa]|prezad[oa]s?|beste|geachte)\s",
    re.IGNORECASE,
)
_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE)


def refusal_in(text: str) -> Literal["whole", "partly"] | None:
    start = " ".join(text[:HEAD].split())
    if _LETTER.match(start) is not None or _REFUSAL.search(start) is None:
        return None
    is_short = len(text) <= SHORT_CHARS and len(text.split()) <= SHORT_WORDS
    return "whole" if is_short else "partly"
