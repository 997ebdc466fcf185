// The largest models, departments, agents and clients of the range.

import { byId, h } from "./dom.js";
import { count, exact, ms, name, share, usd } from "./format.js";

const SHOWN = 6;
const LISTS = [
    ["by_model", "Models", "model", "model"],
    ["by_department", "Departments", "department", "department"],
    ["by_agent", "Agents", "agent", null],
    ["by_client", "Clients", "client", null],
];

export function drawTops(summary, { change }) {
    byId("tops").replaceChildren(
        ...LISTS.map(([key, title, group, filter]) => list(summary[key] ?? [], title, group, filter, change)),
    );
}

function list(rows, title, group, filter, change) {
    const sorted = [...rows].sort(
        (a, b) => Number(b.cost_usd ?? 0) - Number(a.cost_usd ?? 0) || (b.requests ?? 0) - (a.requests ?? 0),
    );
    const byCost = sorted.some((row) => Number(row.cost_usd ?? 0) > 0);
    const size = (row) => (byCost ? Number(row.cost_usd ?? 0) : (row.requests ?? 0));
    const whole = sorted.reduce((sum, row) => sum + size(row), 0);
    const top = sorted.slice(0, SHOWN);
    const rest = sorted.slice(SHOWN);
    const body = top.map((row) => line(row, group, filter, change, size(row), whole));
    if (rest.length) {
        body.push(
            h(
                "tr",
                { class: "rest" },
                h("td", {}, `${rest.length} more`),
                h("td", { class: "number" }, count(rest.reduce((sum, row) => sum + (row.requests ?? 0), 0))),
                filter === "model" ? h("td") : null,
                h("td", { class: "number" }, usd(rest.reduce((sum, row) => sum + Number(row.cost_usd ?? 0), 0))),
            ),
        );
    }
    return h(
        "table",
        { class: "top" },
        h(
            "thead",
            {},
            h(
                "tr",
                {},
                h("th", { scope: "col" }, title),
                h("th", { scope: "col", class: "number" }, "Requests"),
                filter === "model" ? h("th", { scope: "col", class: "number" }, "p95") : null,
                h("th", { scope: "col", class: "number" }, "Cost"),
            ),
        ),
        h(
            "tbody",
            {},
            body.length
                ? body
                : h("tr", {}, h("td", { colspan: filter === "model" ? 4 : 3, class: "none" }, "nothing in this range")),
        ),
    );
}

function line(row, group, filter, change, size, whole) {
    const called = row.name ?? row[group] ?? row.upstream_model;
    const part = whole ? size / whole : 0;
    const fill = h("span", { class: "part", "aria-hidden": "true" });
    fill.style.width = `${part * 100}%`;
    const label =
        called === null || called === undefined
            ? h("span", { class: "is-none" }, group === "model" ? "none answered" : "not said")
            : h("bdi", {}, name(called));
    const shown =
        filter && called
            ? h(
                  "button",
                  {
                      type: "button",
                      class: "link",
                      title: `${name(called)}: show this ${filter} only`,
                      onclick: () => change({ [filter]: called }),
                  },
                  label,
              )
            : h("span", { title: called ? name(called) : null }, label);
    return h(
        "tr",
        {
            title: `${exact(row.requests)} requests, success ${share(row.success_rate)}, ${exact(row.input_tokens)} tokens in, ${exact(row.output_tokens)} out`,
        },
        h("td", {}, shown, fill),
        h("td", { class: "number" }, count(row.requests)),
        filter === "model" ? h("td", { class: "number" }, ms(row.p95_ms)) : null,
        h("td", { class: "number" }, row.unpriced_attempts && Number(row.cost_usd ?? 0) === 0 ? "no price" : usd(row.cost_usd)),
    );
}
