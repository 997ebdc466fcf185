// One card a provider: its state by picture, word and colour, and what that rests on.

import { byId, h, icon, keyed, meter, say, show, sparkline } from "./dom.js";
import { NONE, ago, count, duration, exact, ms, name, plural, share, soon, words } from "./format.js";

const ORDER = ["healthy", "degraded", "down", "unknown"];
let states = new Map();

/** `series`: provider -> [{p95_ms, requests}]; `quotas`: what /api/v1/quotas says, or null. */
export function drawCards(health, { series, quotas, speak }) {
    const cards = health.providers.filter((card) => card.state !== "disabled");
    const off = health.providers.filter((card) => card.state === "disabled");
    const none = byId("providers-none");
    show(none, cards.length === 0);
    if (cards.length === 0)
        say(none, "No provider is in use: put a key into the environment, or a provider into providers.yaml.");
    keyed(
        byId("cards"),
        cards.map((card) => ({
            card,
            points: series?.get(card.name) ?? [],
            quotas: (quotas ?? []).filter((quota) => quota.provider === card.name),
        })),
        (item) => item.card.name,
        make,
    );
    drawDisabled(off);
    drawOverall(cards);
    tellChanges(cards, speak);
}

function drawDisabled(off) {
    const box = byId("disabled");
    show(box, off.length > 0);
    if (off.length === 0) return;
    say(box.querySelector("summary"), `${plural(off.length, "provider")} not in use`);
    box.querySelector("ul").replaceChildren(
        ...off.map((card) => h("li", {}, icon("disabled"), h("bdi", {}, name(card.name)), h("span", {}, name(card.reason)))),
    );
}

function drawOverall(cards) {
    const box = byId("overall");
    show(box, cards.length > 0);
    const counts = ORDER.map((state) => [state, cards.filter((card) => card.state === state).length]).filter(([, n]) => n > 0);
    box.replaceChildren(...counts.map(([state, n]) => h("span", { class: "count" }, icon(state), `${n} ${state}`)));
}

function tellChanges(cards, speak) {
    const now = new Map(cards.map((card) => [card.name, card.state]));
    const said = cards.filter((card) => states.has(card.name) && states.get(card.name) !== card.state);
    if (said.length)
        speak(said.map((card) => `${name(card.name)} is ${card.state}${card.reason ? `: ${card.reason}` : ""}`).join(". "));
    states = now;
}

function make({ card }) {
    const state = h("span", { class: "state" });
    const reason = h("p", { class: "reason" });
    const latency = h("div", { class: "latency" });
    const facts = h("dl", { class: "facts" });
    const left = h("div", { class: "left" });
    const roles = h("p", { class: "roles" });
    const targets = h("ul", { class: "targets" });
    const more = h("details", {}, h("summary", {}, "Targets and checks"), targets);
    const element = h(
        "li",
        { class: "card" },
        h("div", { class: "card-head" }, h("h3", { title: name(card.name) }, h("bdi", {}, name(card.name))), state),
        reason,
        latency,
        facts,
        left,
        roles,
        more,
    );
    return {
        element,
        update({ card: now, points, quotas }) {
            element.className = `card is-${now.state}`;
            element.dataset.provider = now.name;
            element.dataset.state = now.state;
            state.className = `state is-${now.state}`;
            state.replaceChildren(icon(now.state), now.state);
            const why = now.state === "healthy" ? null : (now.reason ?? now.note ?? now.error);
            show(reason, Boolean(why));
            say(reason, why ? name(why) : "");
            drawLatency(latency, now, points);
            facts.replaceChildren(...pairs(now));
            left.replaceChildren(...leftOf(now, quotas));
            drawRoles(roles, now.roles ?? []);
            targets.replaceChildren(...details(now));
        },
    };
}

function drawLatency(box, card, points) {
    const values = points.map((point) => point.p95_ms ?? null);
    const latest = values.findLast((value) => value !== null) ?? null;
    const most = Math.max(...values.filter((value) => value !== null));
    const first = card.first_token_ms == null ? null : `first token ${ms(card.first_token_ms)}`;
    box.replaceChildren(
        sparkline(values),
        h(
            "p",
            { title: latest === null ? null : `p95 of whole answers in the range: ${ms(latest)} last, ${ms(most)} at most` },
            h("strong", {}, latest === null ? NONE : ms(latest)),
            h("span", {}, latest === null ? "no traffic in the range" : "latest p95"),
            first
                ? h(
                      "span",
                      { title: card.first_token_usual_ms == null ? null : `usually ${ms(card.first_token_usual_ms)}` },
                      first,
                  )
                : null,
        ),
    );
}

function pairs(card) {
    const circuit = card.circuit ?? "closed";
    const key = card.key_valid === true ? "valid" : card.key_valid === false ? "refused" : "not checked";
    return [
        pair(
            "Errors",
            card.error_rate == null ? NONE : share(card.error_rate),
            card.error_rate > 0.2 ? "bad" : card.error_rate > 0.05 ? "warn" : null,
            "share of attempts that failed, over the last five minutes",
        ),
        pair(
            "Load",
            card.requests_per_minute == null ? NONE : `${count(Math.round(card.requests_per_minute))}/min`,
            null,
            card.in_flight == null ? null : `${exact(card.in_flight)} in flight`,
        ),
        pair(
            "Circuit",
            words(circuit) + (card.cooldown_s > 0 ? `, ${duration(card.cooldown_s)}` : ""),
            circuit === "open" ? "bad" : circuit === "half_open" || card.cooldown_s > 0 ? "warn" : null,
            card.cooldown_s > 0 ? `set aside for another ${duration(card.cooldown_s)}` : null,
        ),
        pair("Key", key, card.key_valid === false ? "bad" : null),
        pair(
            "Check",
            card.response_ms == null ? (card.checked ? "no answer" : "none yet") : ms(card.response_ms),
            null,
            card.checked
                ? `checked ${ago(card.checked)}${card.models == null ? "" : `, ${plural(card.models, "model")}`}`
                : (card.note ?? null),
        ),
        pair(
            "Uptime 7 d",
            card.uptime?.week == null ? NONE : share(card.uptime.week),
            card.uptime?.week != null && card.uptime.week < 0.99 ? "warn" : null,
            uptimes(card.uptime),
        ),
    ];
}

function uptimes(uptime) {
    if (!uptime) return null;
    return `day ${share(uptime.day)}, week ${share(uptime.week)}, month ${share(uptime.month)}`;
}

function pair(label, value, toneName = null, title = null) {
    return h("div", { title }, h("dt", {}, label), h("dd", { class: toneName ? `is-${toneName}` : null }, value));
}

/** Quotas, the fullest first, then what rate limits leave. */
function leftOf(card, quotas) {
    const rows = [...quotas]
        .sort((a, b) => (b.utilization ?? 0) - (a.utilization ?? 0))
        .slice(0, 2)
        .map((quota) => {
            const used = quota.utilization ?? 0;
            const spent = used >= 1;
            const toneName = spent ? "bad" : used >= 0.75 ? "warn" : "good";
            const text = spent
                ? `quota spent${quota.resets ? `, back ${soon(quota.resets)}` : ""}`
                : `${share(1 - used)} of ${count(quota.limit)} ${quota.unit} a ${quota.per} left`.replace("a once", "in all");
            return h(
                "div",
                { class: "quota" },
                meter(used, toneName),
                h(
                    "p",
                    {
                        class: spent ? "is-bad" : null,
                        title: `${exact(quota.used)} of ${exact(quota.limit)} used${quota.resets ? `, resets ${soon(quota.resets)}` : ""}`,
                    },
                    text,
                ),
            );
        });
    for (const [unit, limit] of Object.entries(card.rate_limit ?? {})) {
        if (!limit || limit.limit == null || limit.remaining == null) continue;
        rows.push(
            h(
                "p",
                { class: "rate", title: limit.resets_s == null ? null : `resets in ${duration(limit.resets_s)}` },
                `Rate limit: ${count(limit.remaining)} of ${count(limit.limit)} ${unit} left`,
            ),
        );
    }
    return rows;
}

const SHOWN_ROLES = 4;

function drawRoles(box, roles) {
    show(box, roles.length > 0);
    const ordered = [...roles].sort((a, b) => (a.role === "primary" ? 0 : 1) - (b.role === "primary" ? 0 : 1));
    const parts = ordered
        .slice(0, SHOWN_ROLES)
        .map((role) => h("span", { class: `role is-${role.role}` }, h("bdi", {}, name(role.chain)), h("i", {}, role.role)));
    if (roles.length > SHOWN_ROLES) parts.push(h("span", { class: "role" }, `+${roles.length - SHOWN_ROLES}`));
    box.replaceChildren(...parts);
}

function details(card) {
    const rows = (card.targets ?? []).map((target) =>
        h(
            "li",
            {},
            icon(target.state),
            h(
                "span",
                {},
                h("bdi", { class: "model" }, name(target.model)),
                h(
                    "span",
                    { class: "aside" },
                    [
                        target.state,
                        target.reason,
                        target.circuit && target.circuit !== "closed" ? `circuit ${words(target.circuit)}` : null,
                        target.latency_ms == null ? null : ms(target.latency_ms),
                        target.failed ? `${exact(target.failed)} of ${exact(target.ok + target.failed)} failed` : null,
                    ]
                        .filter(Boolean)
                        .map(name)
                        .join(" · "),
                ),
            ),
        ),
    );
    const last = [
        card.checked ? `checked ${ago(card.checked)}` : "never checked",
        card.uptime ? `uptime ${uptimes(card.uptime)}` : null,
        card.error ? `check: ${card.error}` : null,
        card.last_error
            ? `last error: ${typeof card.last_error === "object" ? (card.last_error.error ?? card.last_error.message ?? "") : card.last_error}`
            : null,
        card.note,
    ].filter(Boolean);
    rows.push(...last.map((text) => h("li", { class: "said" }, name(text))));
    return rows;
}
