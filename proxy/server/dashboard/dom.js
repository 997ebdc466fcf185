// Elements, made of text and attributes only. Nothing here, or anywhere on the page, turns text into markup.

const SVG = "http://www.w3.org/2000/svg";

/** `h("a", {class: "x", href: "/"}, "text", child, null)`: `on…` are listeners, null and false attributes are left out. */
export function h(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return element;
}

/** Sets text only where it is another one, so that a selection and what a screen reader is at stay. */
export function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
    if (element.hidden === visible) element.hidden = !visible;
}

export function byId(id) {
    return document.getElementById(id);
}

/**
 * Makes the children of `parent` those of `items`, in their order. One that was there stays the same element, with its focus
 * and whatever is open in it; `update` is called only when its item is another than before.
 * `make(item)` returns {element, update(item)}.
 */
export function keyed(parent, items, keyOf, make) {
    const known = parent.keyedParts ?? (parent.keyedParts = new Map());
    const wanted = new Set();
    let position = parent.firstElementChild;
    for (const item of items) {
        const key = keyOf(item);
        if (wanted.has(key)) continue;
        wanted.add(key);
        const seen = JSON.stringify(item);
        let part = known.get(key);
        if (part === undefined) {
            part = { ...make(item), seen: null };
            known.set(key, part);
        }
        if (part.seen !== seen) {
            part.seen = seen;
            part.update(item);
        }
        for (const element of part.elements ?? [part.element]) {
            if (element === position) position = position.nextElementSibling;
            else parent.insertBefore(element, position);
        }
    }
    for (const [key, part] of known) {
        if (wanted.has(key)) continue;
        known.delete(key);
        for (const element of part.elements ?? [part.element]) element.remove();
    }
}

const SHAPES = {
    healthy: [
        ["circle", { cx: 8, cy: 8, r: 6.5 }],
        ["path", { d: "M5 8.2l2.2 2.2L11.2 6" }],
    ],
    degraded: [
        ["path", { d: "M8 1.8 14.6 13.5H1.4z" }],
        ["path", { d: "M8 6.2v3.4m0 1.9v.1" }],
    ],
    down: [
        ["path", { d: "M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3l-3.8-3.8V5.3z" }],
        ["path", { d: "m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4" }],
    ],
    unknown: [
        ["circle", { cx: 8, cy: 8, r: 6.5, "stroke-dasharray": "2.6 2" }],
        ["path", { d: "M6.3 6.3c.2-2.2 3.7-2.1 3.5.1-.1 1.3-1.7 1.3-1.8 2.7m0 2v.1" }],
    ],
    disabled: [
        ["circle", { cx: 8, cy: 8, r: 6.5 }],
        ["path", { d: "M5 8h6" }],
    ],
    info: [
        ["circle", { cx: 8, cy: 8, r: 6.5 }],
        ["path", { d: "M8 7.3v4m0-6.5v.1" }],
    ],
    running: [
        ["circle", { cx: 8, cy: 8, r: 6.5, "stroke-dasharray": "2.6 2" }],
        ["path", { d: "M8 4.5V8l2.3 1.5" }],
    ],
    gone: [
        ["circle", { cx: 8, cy: 8, r: 6.5 }],
        ["path", { d: "M10.5 8h-5m2-2.2L5.3 8l2.2 2.2" }],
    ],
};
const MEANT = {
    ok: "healthy",
    failed: "down",
    rejected: "disabled",
    interrupted: "degraded",
    client_gone: "gone",
    running: "running",
    warning: "degraded",
    error: "down",
    info: "info",
};

/** A small picture beside a word that says the same; one shape a state, so that colour is never all there is. */
export function icon(name) {
    const shape = SHAPES[name] ?? SHAPES[MEANT[name]] ?? SHAPES.unknown;
    return svg(
        "svg",
        { class: `icon is-${tone(name)}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
        ...shape.map(([tag, how]) => svg(tag, how)),
    );
}

/** Which colour a state has: good, warn, bad or idle. */
export function tone(name) {
    switch (name) {
        case "healthy":
        case "ok":
            return "good";
        case "degraded":
        case "warning":
        case "interrupted":
            return "warn";
        case "down":
        case "error":
        case "failed":
            return "bad";
        case "info":
        case "running":
            return "note";
        default:
            return "idle";
    }
}

/** A line of numbers as a small picture; gaps where a number is null. */
export function sparkline(values, { width = 120, height = 26 } = {}) {
    const known = values.filter((value) => value !== null && Number.isFinite(value));
    const picture = svg("svg", {
        class: "spark",
        viewBox: `0 0 ${width} ${height}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
    });
    if (known.length === 0) return picture;
    const most = Math.max(...known);
    const step = width / Math.max(1, values.length - 1);
    const at = (value) => (height - 2 - (most ? (value / most) * (height - 5) : 0)).toFixed(1);
    let line = "";
    let pen = false;
    values.forEach((value, n) => {
        if (value === null || !Number.isFinite(value)) {
            pen = false;
            return;
        }
        line += `${pen ? "L" : "M"}${(n * step).toFixed(1)} ${at(value)}`;
        if (!pen && (n + 1 >= values.length || values[n + 1] === null)) line += "h.1";
        pen = true;
    });
    picture.append(svg("path", { d: line }));
    return picture;
}

/** A share as a bar; `mark` is a second share that a line shows. What it says must stand beside it as text. */
export function meter(share, toneName, mark = null) {
    const fill = h("span", { class: `fill is-${toneName}` });
    fill.style.width = `${Math.min(1, Math.max(0, share ?? 0)) * 100}%`;
    const bar = h("span", { class: "meter", "aria-hidden": "true" }, fill);
    if (mark !== null) {
        const line = h("span", { class: "mark" });
        line.style.left = `${Math.min(1, Math.max(0, mark)) * 100}%`;
        bar.append(line);
    }
    return bar;
}
