// The figures of the range, and of today and this month.

import { h, meter, byId } from "./dom.js";
import { NONE, change, count, exact, ms, number, share, usd } from "./format.js";

export function drawTotals(summary, { filtered }) {
    const before = summary.previous ?? {};
    const month = summary.month ?? {};
    const tokens = summary.tokens ?? {};
    byId("totals").replaceChildren(
        tile("Requests", count(summary.calls), change(summary.calls, before.calls), {
            title: `${exact(summary.calls)} requests; tokens in ${exact(tokens.input)}, out ${exact(tokens.output)}`,
            more: tokens.input || tokens.output ? `${count(number(tokens.input) + number(tokens.output))} tokens` : null,
        }),
        tile(
            "Success",
            share(summary.success_rate, 1),
            before.success_rate == null ? null : `${share(before.success_rate, 1)} before`,
            {
                tone: successTone(summary.success_rate),
                more: summary.fallbacks ? `${count(summary.fallbacks)} failed over` : null,
            },
        ),
        tile("Latency p95", ms(summary.p95_ms), change(summary.p95_ms, before.p95_ms), {
            more: summary.p50_ms == null ? null : `p50 ${ms(summary.p50_ms)}`,
        }),
        tile("First token p95", ms(summary.first_token_p95_ms), null, {
            more: summary.first_token_p50_ms == null ? null : `p50 ${ms(summary.first_token_p50_ms)}`,
        }),
        tile("Spend today", usd(summary.today_usd), null, {
            more: `${usd(summary.cost_usd)} in the range`,
            note: summary.unpriced ? `${count(summary.unpriced)} without a price` : null,
        }),
        monthTile(month, filtered),
    );
}

function successTone(rate) {
    if (rate === null || rate === undefined) return null;
    return rate < 0.8 ? "bad" : rate < 0.95 ? "warn" : null;
}

function tile(label, value, compared, { title = null, more = null, note = null, tone = null } = {}) {
    return h(
        "div",
        { class: "tile", title },
        h("dt", {}, label),
        h("dd", { class: `figure${tone ? ` is-${tone}` : ""}${value === NONE ? " is-none" : ""}` }, value),
        h(
            "dd",
            { class: "aside" },
            ...[more, compared].filter(Boolean).map((text) => h("span", {}, text)),
            note ? h("span", { class: "is-warn" }, note) : null,
        ),
    );
}

function monthTile(month, filtered) {
    const budget = number(month.budget_usd);
    const projection = number(month.projection_usd);
    const used = number(month.utilization);
    const projected = projection === null ? null : `projected ${usd(projection)}`;
    if (budget === null || filtered) {
        return tile("This month", usd(month.spent_usd), projected, { more: filtered ? null : "no budget set" });
    }
    const over = projection !== null && projection > budget;
    const tone = used !== null && used >= 1 ? "bad" : over || (used !== null && used >= 0.8) ? "warn" : "good";
    return h(
        "div",
        { class: "tile" },
        h("dt", {}, "This month"),
        h("dd", { class: "figure" }, usd(month.spent_usd), " ", h("small", {}, `of ${usd(budget)}`)),
        h("dd", {}, meter(used, tone, projection === null ? null : projection / budget)),
        h(
            "dd",
            { class: "aside" },
            h("span", {}, `${share(used)} spent`),
            projected ? h("span", { class: over ? "is-warn" : null }, over ? `${projected}: over` : projected) : null,
        ),
    );
}
