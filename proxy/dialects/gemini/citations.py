"""What Gemini's groundingMetadata says of an answer's sources, as OpenAI's citations.

https://ai.google.dev/api/generate-content#GroundingMetadata

    groundingChunks: [{web | maps | retrievedContext: {uri, title}}]
    groundingSupports: [{segment: {startIndex, endIndex, partIndex, text}, groundingChunkIndices: [number of a chunk]}]
"""

from __future__ import annotations

from typing import Any


def citations(grounding: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """OpenAI's url_citation for each source of each supported stretch of text; a source that supports none stands at the end."""
    chunks = grounding.get("groundingChunks")
    sources = [_source(chunk) for chunk in chunks] if isinstance(chunks, list) else []
    supports = grounding.get("groundingSupports")
    raw = text.encode("utf-8", "surrogatepass")
    found: list[dict[str, Any]] = []
    cited: set[int] = set()
    for support in supports if isinstance(supports, list) else []:
        if not isinstance(support, dict):
            continue
        start, end = _stretch(support.get("segment"), raw, text)
        numbers = support.get("groundingChunkIndices")
        for number in numbers if isinstance(numbers, list) else []:
            source = sources[number] if type(number) is int and 0 <= number < len(sources) else None
            if source is not None:
                cited.add(number)
                found.append(_url_citation(source, start, end))
    for number, source in enumerate(sources):
        if source is not None and number not in cited:
            found.append(_url_citation(source, len(text), len(text)))
    return found


def _source(chunk: object) -> tuple[str, str] | None:
    """(address, title) of a web page, a place or a document."""
    for kind in ("web", "maps", "retrievedContext"):
        place = chunk.get(kind) if isinstance(chunk, dict) else None
        uri = place.get("uri") if isinstance(place, dict) else None
        if isinstance(uri, str) and isinstance(place, dict):
            title = place.get("title")
            return uri, title if isinstance(title, str) else ""
    return None


def _url_citation(source: tuple[str, str], start: int, end: int) -> dict[str, Any]:
    url, title = source
    return {"type": "url_citation", "url_citation": {"url": url, "title": title, "start_index": start, "end_index": end}}


def _stretch(segment: object, raw: bytes, text: str) -> tuple[int, int]:
    """Where a segment stands, in characters. Google counts bytes, and from the start of a part: so its own words are looked at, too."""
    if not isinstance(segment, dict):
        return 0, len(text)
    start, end, said = segment.get("startIndex") or 0, segment.get("endIndex") or 0, segment.get("text")
    if type(start) is int and type(end) is int and 0 <= start <= end <= len(raw):
        before, cited = raw[:start].decode("utf-8", "ignore"), raw[start:end].decode("utf-8", "ignore")
        if not isinstance(said, str) or cited == said:
            return len(before), len(before) + len(cited)
    place = text.find(said) if isinstance(said, str) and said else -1
    return (place, place + len(str(said))) if place >= 0 else (0, len(text))
