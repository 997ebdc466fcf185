// Why a request went the way that it did: the decision trace, with the figures that the choice was made from.

import { h, icon } from "./dom.js";
import { ms, name, usd, words } from "./format.js";

/** The decision trace: which targets there were, in their order, what became of each. */
export function why(row) {
    const trace = row.trace ?? [];
    if (trace.length === 0)
        return h(
            "p",
            { class: "calm" },
            row.error_code ? `Refused before a plan was made: ${words(row.error_code)}.` : "No trace was kept.",
        );
    const plan = trace.filter((entry) => "kept" in entry || "skipped" in entry);
    const tried = trace.filter((entry) => "attempt" in entry);
    const others = trace.filter((entry) => !plan.includes(entry) && !tried.includes(entry));
    const winner = row.provider && row.outcome !== "failed" ? `${row.provider}/${row.upstream_model}` : null;
    const steps = plan.map((entry, n) => {
        const notes = tried.filter((attempt) => attempt.target === entry.target);
        const won = entry.target === winner;
        let picture = "disabled";
        let text = "not needed";
        if ("skipped" in entry) text = `skipped: ${entry.skipped}`;
        else if (won) {
            picture = row.outcome;
            text = row.outcome !== "ok" ? words(row.outcome) : row.cache === "hit" ? "answered, from the cache" : "answered";
        } else if (notes.some((note) => note.error)) picture = "failed";
        if (notes.length) text = [...notes.map(noted), won ? text : null].filter(Boolean).join("; ");
        if (entry.by) text += ` (${figures(entry.by)})`;
        if (entry.last_resort) text += ", as the last resort";
        if (entry.keys_set_aside) text += ` (keys set aside: ${entry.keys_set_aside.join(", ")})`;
        return h(
            "li",
            {},
            icon(picture),
            h(
                "span",
                {},
                h("b", {}, `${n + 1} `),
                h("bdi", {}, name(entry.target)),
                h("span", { class: "aside" }, ` ${name(text)}`),
            ),
        );
    });
    const known = new Set(plan.map((entry) => entry.target));
    const more = [...tried.filter((entry) => !known.has(entry.target)), ...others].map((entry) =>
        h(
            "li",
            {},
            icon("info"),
            h(
                "span",
                { class: "aside" },
                name(
                    Object.entries(entry)
                        .map(([key, value]) => `${words(key)} ${typeof value === "object" ? JSON.stringify(value) : value}`)
                        .join(", "),
                ),
            ),
        ),
    );
    return h("ol", { class: "trace" }, steps, more);
}

const THEN = {
    next: ", then the next target",
    retry: ", then once more",
    again: ", then at once on a new connection",
    continue: ", and the next target went on with it",
    wait: ", and the other went on alone",
    stop: ", and that was the end",
    earlier: ", and the earlier answer was better",
};

/** What the walk down the chain noted of an attempt. */
function noted(note) {
    const then = THEN[note.then] ?? "";
    if (note.hedge) return `attempt ${note.attempt} was asked as well after ${ms(note.after_ms)}`;
    if (note.quality != null) return `attempt ${note.attempt} measured ${note.quality}${then}`;
    return `attempt ${note.attempt} ended with ${words(note.error)} after ${ms(note.ms)}${then}`;
}

const UNITS = { first_token_ms: ms, expected_ms: ms, expected_cost_usd: usd };

/** What a target's place was worked out from. */
function figures(by) {
    const { strategy, place, ...rest } = by;
    const said = Object.entries(rest)
        .filter(([, value]) => value != null)
        .map(([key, value]) => `${words(key).replace(/ (ms|usd)$/, "")} ${(UNITS[key] ?? String)(value)}`);
    return [words(strategy), ...said].join(", ");
}
