// The newest requests. A row opens to its attempts, how long each took, and why this target answered.

import { get } from "./api.js";
import { byId, h, icon, keyed, show, say } from "./dom.js";
import { NONE, count, exact, moment, ms, name, plural, usd, words } from "./format.js";
import { why } from "./reasons.js";

const MOST = 400; // rows that are kept on the page
let rows = [];
let older = []; // what the button has fetched besides
let next = null;
let waiting = null; // {page, how}: while a row is open nothing moves; this is what would have come
const open = new Map(); // id -> detail, or null while it is fetched

/** Shows the newest page. While somebody reads an open row, only what changed of the rows that are there. */
export function drawLog(page, how) {
    if (open.size === 0 || rows.length === 0) {
        take(page, how);
        return;
    }
    const fresh = new Map(page.data.map((row) => [row.id, row]));
    rows = rows.map((row) => fresh.get(row.id) ?? row);
    waiting = { page, how };
    draw(how);
}

function take(page, how) {
    waiting = null;
    if (older.length > 0) {
        // what leaves the newest page joins the older ones; after a gap they would not follow upon one another any more
        const joined = page.data.some((row) => row.id === rows[0]?.id) || page.data.length === 0;
        older = joined ? [...rows, ...older].slice(0, MOST) : [];
    }
    rows = page.data;
    if (older.length === 0) next = page.next;
    draw(how);
}

/** Another range or filter: nothing of what is shown holds. */
export function forgetLog() {
    rows = [];
    older = [];
    next = null;
    waiting = null;
    open.clear();
    byId("log-rows").keyedParts?.clear();
    byId("log-rows").replaceChildren();
}

export function showWaiting() {
    if (waiting) take(waiting.page, waiting.how);
}

export async function fetchOlder(params, how) {
    if (!next) return;
    const page = await get("/api/v1/requests", { ...params, before: next });
    older = [...older, ...page.data].slice(0, MOST);
    next = older.length < MOST ? page.next : null;
    draw(how);
}

function draw({ matches, empty }) {
    const seen = new Set();
    const all = [...rows, ...older].filter((row) => matches(row) && !seen.has(row.id) && seen.add(row.id));
    for (const id of open.keys()) if (!seen.has(id)) open.delete(id);
    show(byId("log-table"), all.length > 0);
    show(byId("log-none"), all.length === 0);
    if (all.length === 0) say(byId("log-none"), empty);
    const newer = waiting ? waiting.page.data.filter((row) => row.id > rows[0].id && matches(row)).length : 0;
    show(byId("newer"), newer > 0);
    if (newer > 0)
        say(
            byId("newer"),
            newer === waiting.page.data.length ? `${newer} or more newer requests` : plural(newer, "newer request"),
        );
    show(byId("older"), next !== null && all.length > 0);
    keyed(byId("log-rows"), all, (row) => row.id, make);
}

function make(first) {
    const button = h("button", {
        type: "button",
        class: "opener",
        "aria-expanded": "false",
        "aria-controls": `detail-${first.id}`,
    });
    const cells = Array.from({ length: 10 }, (_, n) => h("td", { role: "cell", class: `c${n}${n > 4 ? " number" : ""}` }));
    cells[0].append(button);
    const line = h("tr", { role: "row", class: "line", "data-id": first.id }, cells);
    const inside = h("td", { role: "cell", colspan: 10 });
    const detail = h("tr", { role: "row", class: "detail", id: `detail-${first.id}`, hidden: true }, inside);
    const turn = () => toggle(first.id, button, detail, inside);
    line.addEventListener("click", (event) => {
        if (!event.target.closest("button") && !getSelection().toString()) turn();
    });
    button.addEventListener("click", turn);
    button.addEventListener("keydown", (event) => walk(event, line));
    detail.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        if (!detail.hidden) turn();
        button.focus();
    });
    return {
        elements: [line, detail],
        update(row) {
            fill(button, cells, row);
            if (open.has(row.id)) fetchDetail(row.id, inside);
        },
    };
}

/** Up and down go from row to row. */
function walk(event, line) {
    const down = event.key === "ArrowDown";
    if (!down && event.key !== "ArrowUp") return;
    event.preventDefault();
    let other = line;
    do other = down ? other.nextElementSibling : other.previousElementSibling;
    while (other && !other.classList.contains("line"));
    other?.querySelector("button").focus();
}

function fill(button, cells, row) {
    const word = words(row.outcome);
    const tries = row.attempts ?? 0;
    button.replaceChildren(
        h("span", { class: "twist", "aria-hidden": "true" }),
        h("time", { datetime: row.time }, moment(row.time)),
    );
    button.setAttribute("aria-label", `${moment(row.time)}, ${word}, ${name(row.model)}: attempts and reasons`);
    cells[1].replaceChildren(
        icon(row.outcome),
        h("span", { class: "word" }, word),
        row.http_status && row.outcome !== "ok" ? h("span", { class: "aside" }, ` ${row.http_status}`) : "",
    );
    cells[2].replaceChildren(h("bdi", { title: name(row.model) }, name(row.model)));
    const target = row.provider ? `${name(row.provider)}/${name(row.upstream_model)}` : NONE;
    cells[3].replaceChildren(
        h("bdi", { title: target }, target),
        tries > 1 && row.outcome === "ok" ? h("span", { class: "tag is-warn" }, "failed over") : "",
    );
    cells[4].replaceChildren(who(row));
    tell(cells[5], "tries", exact(tries));
    tell(cells[6], "first token", ms(row.first_token_ms));
    tell(cells[7], "took", ms(row.duration_ms));
    tell(cells[8], "tokens", `${count(row.input_tokens)} / ${count(row.output_tokens)}`);
    tell(cells[9], "cost", row.cost_usd == null && row.outcome !== "running" ? (tries ? "no price" : NONE) : usd(row.cost_usd));
}

/** On a narrow screen the heads of the columns are gone: the cell says itself what it is. */
function tell(cell, label, text) {
    cell.dataset.label = label;
    say(cell, text);
}

function who(row) {
    const parts = [row.client, row.department, row.agent].filter(Boolean).map(name);
    const text = parts.join(" · ") || NONE;
    return h(
        "bdi",
        {
            title:
                [
                    ["client", row.client],
                    ["department", row.department],
                    ["agent", row.agent],
                    ["task", row.task],
                ]
                    .filter(([, value]) => value)
                    .map(([key, value]) => `${key} ${name(value)}`)
                    .join(", ") || null,
        },
        text,
    );
}

function toggle(id, button, detail, inside) {
    const opening = detail.hidden;
    show(detail, opening);
    button.setAttribute("aria-expanded", String(opening));
    if (!opening) {
        open.delete(id);
        if (open.size === 0) showWaiting();
        return;
    }
    if (!inside.firstChild) inside.replaceChildren(h("p", { class: "calm" }, "loading"));
    fetchDetail(id, inside);
}

async function fetchDetail(id, inside) {
    if (open.get(id) === null) return;
    open.set(id, null);
    try {
        const row = await get(`/api/v1/requests/${encodeURIComponent(id)}`);
        open.set(id, row);
        inside.replaceChildren(...detailOf(row));
    } catch (error) {
        open.set(id, undefined);
        inside.replaceChildren(h("p", { class: "calm is-bad" }, `could not be read: ${error.message}`));
    }
}

function detailOf(row) {
    const attempts = row.attempt_list ?? [];
    return [
        h(
            "div",
            { class: "detail-parts" },
            h(
                "section",
                {},
                h("h3", {}, plural(attempts.length, "attempt")),
                attempts.length ? timeline(row, attempts) : h("p", { class: "calm" }, "Nothing was sent to a provider."),
            ),
            h("section", {}, h("h3", {}, row.provider ? "Why this target" : "Why no target"), why(row)),
            h("section", {}, h("h3", {}, "The request"), facts(row)),
        ),
    ];
}

/** Each attempt as a bar from its start to its end; the lighter part is the wait for the first token. */
function timeline(row, attempts) {
    const begin = Math.min(Date.parse(row.time), ...attempts.map((attempt) => Date.parse(attempt.started)));
    const end = Math.max(
        begin + (row.duration_ms ?? 0),
        ...attempts.map((attempt) => Date.parse(attempt.started) + (attempt.duration_ms ?? 0)),
        begin + 0.1,
    );
    const span = end - begin;
    return h(
        "ol",
        { class: "attempts" },
        attempts.map((attempt) => {
            const from = (Date.parse(attempt.started) - begin) / span;
            const long = (attempt.duration_ms ?? 0) / span;
            const bar = h("span", {
                class: `run is-${attempt.outcome === "ok" ? "good" : attempt.outcome === "running" ? "note" : "bad"}`,
            });
            bar.style.left = `${Math.min(0.99, from) * 100}%`;
            bar.style.width = `${Math.max(0.006, Math.min(long, 1 - from)) * 100}%`;
            if (attempt.first_token_ms != null && attempt.duration_ms) {
                const wait = h("span", { class: "wait" });
                wait.style.width = `${Math.min(1, attempt.first_token_ms / attempt.duration_ms) * 100}%`;
                bar.append(wait);
            }
            const said = [
                attempt.error_class ? words(attempt.error_class) : null,
                attempt.http_status && attempt.outcome !== "ok" ? `HTTP ${attempt.http_status}` : null,
                attempt.category,
                attempt.first_token_ms == null ? null : `first token ${ms(attempt.first_token_ms)}`,
                attempt.outcome === "ok" || attempt.output_tokens
                    ? `${count(attempt.input_tokens)} in, ${count(attempt.output_tokens)} out`
                    : null,
                attempt.cost_usd == null ? null : usd(attempt.cost_usd),
            ].filter(Boolean);
            return h(
                "li",
                { class: "attempt" },
                h(
                    "div",
                    { class: "attempt-head" },
                    icon(attempt.outcome),
                    h("b", {}, exact(attempt.n)),
                    h("bdi", {}, `${name(attempt.provider)}/${name(attempt.upstream_model)}`),
                    h("span", { class: "word" }, words(attempt.outcome)),
                    h("span", { class: "number" }, ms(attempt.duration_ms)),
                ),
                h("div", { class: "track", "aria-hidden": "true" }, bar),
                h("p", { class: "aside" }, said.map(name).join(" · ")),
                attempt.error ? h("p", { class: "fault" }, name(attempt.error)) : null,
            );
        }),
    );
}

function facts(row) {
    const pairs = [
        ["id", row.id],
        ["chain", row.chain],
        ["task", row.task],
        ["task id", row.task_id],
        ["status", row.http_status],
        ["cache", row.cache],
        ["saved", row.saved_usd == null ? null : usd(row.saved_usd)],
        ["quality", row.quality],
        ["hedged", row.hedged ? "yes" : null],
        ["error", row.error_code && words(row.error_code)],
        ["finish reason", row.finish_reason],
        ["streamed", row.stream == null ? null : row.stream ? "yes" : "no"],
        [
            "tokens in",
            row.cached_input_tokens
                ? `${exact(row.input_tokens)}, of them ${exact(row.cached_input_tokens)} cached`
                : exact(row.input_tokens),
        ],
        [
            "tokens out",
            row.reasoning_tokens
                ? `${exact(row.output_tokens)}, of them ${exact(row.reasoning_tokens)} reasoning`
                : exact(row.output_tokens),
        ],
        ["usage from", row.usage_source],
        ["in the proxy", row.overhead_ms == null ? null : ms(row.overhead_ms)],
        ["left out", row.dropped?.length ? row.dropped.join(", ") : null],
        ["configuration", row.config],
    ];
    return h(
        "dl",
        { class: "pairs" },
        pairs
            .filter(([, value]) => value !== null && value !== undefined && value !== "")
            .map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, name(value)))),
    );
}
