// What may be spent and used, how far it is, and what could be better. Each part shows only where there is something to say.

import { byId, h, meter, show } from "./dom.js";
import { count, day, exact, name, share, soon, usd } from "./format.js";

export function drawMeters(budgets, quotas) {
    const rows = [...(budgets ?? []).map(budget), ...(quotas ?? []).map(quota)];
    show(byId("limits"), rows.length > 0);
    rows.sort((a, b) => b.used - a.used);
    byId("meters").replaceChildren(...rows.map((row) => row.element));
}

const PER = { day: "daily", month: "monthly", once: "once" };

function toneOf(used, over) {
    return used >= 1 ? "bad" : over || used >= 0.8 ? "warn" : "good";
}

function budget(row) {
    const used = row.utilization ?? 0;
    const limit = Number(row.limit_usd);
    const projection = row.projection_usd == null ? null : Number(row.projection_usd);
    const over = projection !== null && projection > limit;
    const about = [
        row.hard ? "hard" : "warns only",
        row.held_usd && Number(row.held_usd) > 0 ? `${usd(row.held_usd)} held` : null,
        row.resets ? `resets ${soon(row.resets)}` : null,
        projection === null ? null : `projected ${usd(projection)}${over ? ": over" : ""}`,
    ];
    const title = row.scope === "total" ? "everything" : `${row.scope} ${name(row.name)}`;
    return {
        used,
        element: item(
            "Budget",
            title,
            row.per,
            meter(used, toneOf(used, over), projection === null || !limit ? null : projection / limit),
            `${usd(row.spent_usd)} of ${usd(row.limit_usd)}`,
            used,
            about,
        ),
    };
}

function quota(row) {
    const used = row.utilization ?? 0;
    const lasts =
        row.lasts_days == null
            ? null
            : `a full one lasts ${row.lasts_days >= 10 ? exact(Math.round(row.lasts_days)) : Number(row.lasts_days).toFixed(1)} d`;
    const about = [
        row.resets ? `resets ${soon(row.resets)}` : null,
        row.runs_out ? `runs out ${day(row.runs_out)}` : row.per_day == null ? null : "does not run out at this rate",
        lasts,
    ];
    const title = `${name(row.provider)}${row.key ? ` key ${name(row.key)}` : ""}`;
    return {
        used,
        element: item(
            "Quota",
            title,
            row.per,
            meter(used, toneOf(used, Boolean(row.runs_out) && used >= 0.75)),
            `${count(row.used)} of ${count(row.limit)} ${row.unit}`,
            used,
            about,
        ),
    };
}

function item(kind, title, per, bar, amount, used, about) {
    return h(
        "li",
        {},
        h(
            "p",
            { class: "about-what" },
            h("span", { class: "kind" }, kind),
            h("bdi", {}, title),
            h("span", { class: "kind" }, PER[per] ?? per),
        ),
        bar,
        h("p", { class: "amount" }, h("span", {}, amount), h("strong", {}, share(used))),
        h("p", { class: "aside" }, about.filter(Boolean).join(" · ")),
    );
}

export function drawAdvice(advice) {
    const rows = advice ?? [];
    show(byId("advice"), rows.length > 0);
    byId("advice-list").replaceChildren(
        ...rows
            .slice(0, 8)
            .map((row) =>
                h(
                    "li",
                    {},
                    h("h3", {}, name(row.title)),
                    row.saving_usd && Number(row.saving_usd) > 0
                        ? h("p", { class: "saving" }, `saves ${usd(row.saving_usd)}`)
                        : null,
                    h("p", {}, name(row.text)),
                    row.source
                        ? h(
                              "p",
                              { class: "aside" },
                              "from ",
                              local(row.source) ? h("a", { href: row.source }, row.source) : name(row.source),
                          )
                        : null,
                ),
            ),
    );
}

/** Only ever a page of our own. */
function local(address) {
    return /^\/api\/v1\/[a-z-]+(?:[/?][^\s]*)?$/.test(address);
}
