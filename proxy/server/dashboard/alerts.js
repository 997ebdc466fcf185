// Open alerts, the gravest first; a button says that somebody has seen one.

import { post } from "./api.js";
import { byId, h, icon, keyed, say, show } from "./dom.js";
import { ago, moment, name, plural, words } from "./format.js";

const RANK = { error: 0, warning: 1, info: 2 };
const SHOWN = 6;
let all = false;
let shown = [];

export function drawAlerts(answer, { refresh }) {
    shown = answer.data.filter((alert) => alert.state !== "resolved");
    const order = (alert) => (alert.state === "acknowledged" ? 10 : 0) + (RANK[alert.severity] ?? 3);
    shown.sort((a, b) => order(a) - order(b) || String(b.raised).localeCompare(String(a.raised)));
    const open = shown.filter((alert) => alert.state === "open").length;
    const none = byId("alerts-none");
    show(none, shown.length === 0);
    if (shown.length === 0) none.replaceChildren(icon("healthy"), "No open alerts");
    say(byId("alerts-title"), open ? `Alerts: ${open} open` : "Alerts");
    byId("alerts").classList.toggle("is-calm", shown.length === 0);
    draw(refresh);
}

function draw(refresh) {
    const list = byId("alerts-list");
    const some = all ? shown : shown.slice(0, SHOWN);
    keyed(
        list,
        some,
        (alert) => alert.id,
        (alert) => row(alert, refresh),
    );
    let more = byId("alerts-more");
    if (shown.length <= SHOWN) {
        more?.remove();
        return;
    }
    if (!more) {
        more = h("button", {
            type: "button",
            class: "quiet more",
            id: "alerts-more",
            onclick: () => {
                all = !all;
                draw(refresh);
            },
        });
        list.after(more);
    }
    say(more, all ? "Fewer" : `${plural(shown.length - SHOWN, "more alert")}`);
}

function row(first, refresh) {
    const picture = h("span", { class: "what" });
    const text = h("span", { class: "message" });
    const about = h("span", { class: "about" });
    const button = h("button", { type: "button", class: "quiet" }, "Acknowledge");
    button.addEventListener("click", async () => {
        button.disabled = true;
        try {
            await post(`/api/v1/alerts/${encodeURIComponent(first.id)}/acknowledge`);
            refresh();
        } catch (error) {
            button.disabled = false;
            say(about, `could not be acknowledged: ${error.message}`);
        }
    });
    const element = h("li", {}, picture, h("div", {}, text, about), button);
    return {
        element,
        update(alert) {
            element.className = `alert is-${alert.severity}${alert.state === "acknowledged" ? " is-seen" : ""}`;
            picture.replaceChildren(icon(alert.severity), alert.severity);
            say(text, name(alert.message));
            say(
                about,
                [
                    words(alert.kind),
                    name(alert.subject),
                    `since ${moment(alert.raised)} (${ago(alert.raised)})`,
                    alert.state === "acknowledged" ? "acknowledged" : null,
                ]
                    .filter(Boolean)
                    .join(" · "),
            );
            show(button, alert.state === "open");
            button.setAttribute("aria-label", `Acknowledge: ${name(alert.message)}`);
        },
    };
}
