// The figures over time, each as a picture and, at a button, as the table that it was drawn from.

import uPlot from "./vendor/uPlot.esm.js";
import { byId, h, say, show } from "./dom.js";
import { NONE, count, day, exact, hour, ms, name, number, share, soon, usd, words } from "./format.js";

const HEIGHT = 172;
const POINTS = 50; // fewer in a line are marked each, as one that stands alone would not show
const palette = {};

/** Canvas knows no CSS variables: what they come to now, by the colours in force. */
function readPalette() {
    const probe = h("span");
    document.body.append(probe);
    for (const key of ["bar", "bar-2", "amber", "red", "idle", "muted", "line"]) {
        probe.style.color = `var(--${key})`;
        palette[key] = getComputedStyle(probe).color;
    }
    probe.remove();
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
const most = (values) => values.reduce((top, value) => (value !== null && (top === null || value > top) ? value : top), null);
const rest = (row) => Math.max(0, (row.requests ?? 0) - (row.ok ?? 0) - (row.failed ?? 0));

// kind "stack": bars upon one another, the first at the bottom; "lines": lines. `all`: what the legend shows for the whole range.
const CHARTS = [
    {
        id: "requests",
        title: "Requests by outcome",
        kind: "stack",
        format: count,
        all: sum,
        series: [
            ["ok", "bar", (row) => row.ok ?? 0],
            ["failed", "red", (row) => row.failed ?? 0],
            ["other", "idle", rest],
        ],
    },
    {
        id: "latency",
        title: "Latency",
        kind: "lines",
        format: ms,
        all: most,
        allMeans: "at most",
        series: [
            ["p95", "bar", (row) => row.p95_ms ?? null],
            ["p50", "bar-2", (row) => row.p50_ms ?? null],
            ["first token p95", "amber", (row) => row.first_token_p95_ms ?? null],
        ],
    },
    {
        id: "spend",
        title: "Spend",
        kind: "stack",
        format: usd,
        all: sum,
        series: [["USD", "bar", (row) => number(row.cost_usd) ?? 0]],
    },
    {
        id: "tokens",
        title: "Tokens",
        kind: "stack",
        format: count,
        all: sum,
        series: [
            ["input", "bar", (row) => row.input_tokens ?? 0],
            ["output", "bar-2", (row) => row.output_tokens ?? 0],
        ],
    },
    {
        id: "failovers",
        title: "Failed over",
        kind: "stack",
        format: count,
        all: sum,
        series: [["answered by another target", "amber", (row) => row.failed_over ?? 0]],
    },
];

let figures = null;

export function drawCharts(series) {
    if (figures === null) begin();
    for (const figure of figures) figure.draw(series);
}

export function recolour() {
    readPalette();
    for (const figure of figures ?? []) figure.redraw();
}

function begin() {
    readPalette();
    figures = CHARTS.map((chart) => new Figure(chart));
    const moves = h(
        "div",
        { class: "chart", id: "moves" },
        h("h3", {}, "Failovers from → to"),
        h("p", { class: "calm", id: "moves-none" }, "loading"),
        h("table", { class: "moves", id: "moves-table" }),
    );
    byId("charts").append(...figures.map((figure) => figure.element), moves);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    const watcher = new ResizeObserver((entries) => {
        for (const entry of entries) figures.find((figure) => figure.box === entry.target)?.resize(entry.contentRect.width);
    });
    for (const figure of figures) watcher.observe(figure.box);
}

class Figure {
    constructor(chart) {
        this.chart = chart;
        this.plot = null;
        this.series = { step: "hour", data: [] };
        this.box = h("div", { class: "plot", role: "img" });
        this.values = [];
        const legend = chart.series.map(([label, colour]) => {
            const value = h("b");
            this.values.push(value);
            return h(
                "li",
                {},
                h("span", { class: `swatch is-${colour}`, "aria-hidden": "true" }),
                chart.series.length > 1 ? label : "",
                value,
            );
        });
        this.when = h("span", { class: "when" });
        this.none = h("p", { class: "calm", hidden: true }, "nothing in this range");
        this.table = h("div", { class: "scroll", hidden: true, tabindex: 0 });
        this.button = h(
            "button",
            { type: "button", class: "quiet small", "aria-pressed": "false", "aria-label": `${chart.title} as a table` },
            "Table",
        );
        this.button.addEventListener("click", () => this.turn());
        this.element = h(
            "figure",
            { class: "chart", id: `chart-${chart.id}` },
            h("figcaption", {}, h("h3", {}, chart.title), this.when, this.button),
            h("ul", { class: "legend" }, legend),
            this.box,
            this.none,
            this.table,
        );
    }

    draw(series) {
        this.series = series;
        const { chart } = this;
        const columns = chart.series.map(([, , pick]) => series.data.map(pick));
        this.columns = columns;
        const empty = columns.every((values) => values.every((value) => !value));
        show(this.none, empty);
        show(this.box, !empty && this.table.hidden);
        this.tell(null);
        const said = chart.series.map(
            ([label], n) => `${label} ${chart.format(chart.all(columns[n]))}${chart.allMeans ? ` ${chart.allMeans}` : ""}`,
        );
        this.box.setAttribute("aria-label", `${chart.title} over time: ${said.join(", ")}`);
        if (!this.table.hidden) this.fillTable();
        if (empty) return;
        const times = series.data.map((row) => Date.parse(row.time) / 1000);
        const data = [times, ...(chart.kind === "stack" ? stacked(columns) : columns)];
        if (this.plot !== null && this.step === series.step) {
            const { idx } = this.plot.cursor;
            this.plot.setData(data);
            if (idx != null && idx < times.length) this.tell(idx);
            return;
        }
        this.plot?.destroy();
        this.step = series.step;
        this.plot = new uPlot(this.options(), data, this.box);
    }

    options() {
        const { chart, step } = this;
        const seconds = { minute: 60, hour: 3600, day: 86_400 }[step];
        const bars = uPlot.paths.bars({ size: [0.78, 36], align: 1 });
        // drawn from the tallest to the lowest, so that each covers the next one's foot
        const drawn = chart.kind === "stack" ? [...chart.series].reverse() : chart.series;
        return {
            width: Math.max(120, this.box.clientWidth),
            height: HEIGHT,
            padding: [8, 18, 0, 0],
            legend: { show: false },
            cursor: {
                y: false,
                points: { show: chart.kind === "lines", size: 6 },
                drag: { setScale: false, x: false, y: false },
            },
            scales: {
                x: {
                    time: true,
                    range: (_, from, to) => [from, chart.kind === "stack" ? to + seconds : Math.max(to, from + seconds)],
                },
                y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] },
            },
            axes: [
                { ...axis(), space: 54, size: 26, values: (_, splits, __, space, incr) => splits.map((at) => mark(at, incr)) },
                {
                    ...axis(),
                    space: 34,
                    size: (_, labels) => Math.max(30, ...(labels ?? []).map((label) => String(label).length * 6.3 + 14)),
                    values: (_, splits) => splits.map((value) => short(chart.format(value))),
                },
            ],
            series: [
                {},
                ...drawn.map(([label, colour], n) =>
                    chart.kind === "stack"
                        ? {
                              label,
                              paths: bars,
                              fill: () => palette[colour],
                              stroke: () => palette[colour],
                              width: 0,
                              points: { show: false },
                          }
                        : {
                              label,
                              stroke: () => palette[colour],
                              width: 1.5,
                              spanGaps: false,
                              points: {
                                  show: () => this.columns[n].filter((value) => value !== null).length < POINTS,
                                  size: 4,
                                  stroke: () => palette[colour],
                                  fill: () => palette[colour],
                              },
                          },
                ),
            ],
            hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx ?? null)] },
        };
    }

    /** The legend: of the moment under the pointer, else of the whole range. */
    tell(index) {
        const { chart, series } = this;
        const row = index === null ? null : series.data[index];
        say(
            this.when,
            row
                ? series.step === "day"
                    ? day(row.time)
                    : series.step === "hour"
                      ? soon(row.time)
                      : hour(row.time)
                : (chart.allMeans ?? "in all"),
        );
        this.values.forEach((element, n) =>
            say(element, chart.format(row ? this.columns[n][index] : chart.all(this.columns[n]))),
        );
    }

    turn() {
        const asTable = this.table.hidden;
        show(this.table, asTable);
        this.button.setAttribute("aria-pressed", String(asTable));
        say(this.button, asTable ? "Picture" : "Table");
        if (asTable) this.fillTable();
        this.draw(this.series);
    }

    fillTable() {
        const { chart, series } = this;
        const line = (row, n) =>
            h(
                "tr",
                {},
                h("th", { scope: "row" }, series.step === "day" ? day(row.time) : soon(row.time)),
                ...this.columns.map((values) =>
                    h("td", { class: "number" }, values[n] === null ? NONE : chart.format(values[n])),
                ),
            );
        const lines = series.data.map(line).reverse();
        this.table.replaceChildren(
            h(
                "table",
                {},
                h(
                    "thead",
                    {},
                    h(
                        "tr",
                        {},
                        h("th", { scope: "col" }, "From"),
                        ...chart.series.map(([label]) => h("th", { scope: "col", class: "number" }, label)),
                    ),
                ),
                h("tbody", {}, lines),
            ),
        );
    }

    resize(width) {
        if (this.plot !== null && width > 0 && Math.abs(width - this.plot.width) > 1)
            this.plot.setSize({ width: Math.max(120, width), height: HEIGHT });
    }

    redraw() {
        this.plot?.redraw(true);
    }
}

/** Each column upon those before it; the tallest first, as they are drawn. */
function stacked(columns) {
    const sums = [];
    columns.forEach((values, n) => sums.push(values.map((value, at) => (value ?? 0) + (n ? sums[n - 1][at] : 0))));
    return sums.reverse();
}

function axis() {
    return {
        stroke: () => palette.muted,
        font: "11px system-ui, sans-serif",
        gap: 4,
        grid: { stroke: () => palette.line, width: 1 },
        ticks: { stroke: () => palette.line, width: 1, size: 4 },
    };
}

/** `4.00 s` -> `4 s`: an axis has round values. */
function short(text) {
    return text.replace(/\.0+(?=\D|$)/, "").replace(/^0 ms$/, "0");
}

function mark(at, incr) {
    const when = new Date(at * 1000);
    return incr >= 86_400 || (when.getHours() === 0 && when.getMinutes() === 0) ? day(when) : hour(when);
}

/** Who asked is not counted here: with `filtered` it says so. */
export function drawMoves(answer, filtered) {
    if (figures === null) begin();
    const rows = answer.data.slice(0, 7);
    show(byId("moves-none"), rows.length === 0);
    say(byId("moves-none"), "no failover in this range");
    show(byId("moves-table"), rows.length > 0);
    byId("moves-table").replaceChildren(
        h(
            "thead",
            {},
            h(
                "tr",
                {},
                h("th", { scope: "col" }, "Chain"),
                h("th", { scope: "col" }, "From → to"),
                h("th", { scope: "col" }, "Because"),
                h("th", { scope: "col", class: "number" }, "Times"),
            ),
        ),
        h(
            "tbody",
            {},
            rows.map((row) =>
                h(
                    "tr",
                    {},
                    h("td", {}, h("bdi", {}, name(row.chain))),
                    h("td", {}, h("bdi", {}, name(row.from)), h("span", { class: "arrow" }, " → "), h("bdi", {}, name(row.to))),
                    h("td", {}, name(words(row.reason))),
                    h("td", { class: "number" }, exact(row.count)),
                ),
            ),
        ),
    );
    const figure = byId("moves");
    say(
        figure.querySelector("h3"),
        `Failovers from → to${answer.rate == null ? "" : `: ${share(answer.rate)} of ${filtered ? "all callers' " : ""}requests`}`,
    );
}
