// Where a run's time went: one bar for each span. Dark is the part that the run waited for, light
// what something else overlapped; the dark parts add up to the whole time.

import { make } from "./markdown.js";

const MOST_ROWS = 14;

const GROUPS = {
  FIRST_TOKEN: "model", DECODE: "model", TOOL: "tool", CONTEXT: "store", PERSIST: "store",
  CACHE: "store", QUEUE: "wait", TAKEOVER: "wait",
};

export function draw(waterfall) {
  const { shown, folded } = fold(waterfall.spans);
  const total = Math.max(waterfall.wall_ms, 0.001);
  const rows = shown.map((span) => row(span, total));
  const table = make("div", ...rows);
  table.className = "spans";
  table.setAttribute("role", "table");
  table.setAttribute("aria-label", "Where the time went");
  const parts = [table];
  if (folded.length) {
    const waited = folded.reduce((sum, span) => sum + span.critical_ms, 0);
    parts.push(note(`and ${folded.length} shorter: ${milliseconds(waited)} waited for`));
  }
  const legend = note("waited for");
  legend.classList.add("legend");
  legend.prepend(mark("dark"));
  if (shown.some((span) => span.critical_ms < span.duration_ms * 0.995)) {
    legend.append(mark("light"), "overlapped");
  }
  return make("div", ...parts, legend);
}

function row(span, total) {
  const kind = span.kind.replace("SPAN_KIND_", "");
  const name = cell("name", make("span", words(kind)), make("b", span.name));
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.dataset.group = GROUPS[kind] ?? "other";
  const share = span.duration_ms > 0 ? Math.min(span.critical_ms / span.duration_ms, 1) : 1;
  bar.style.left = `${Math.min((100 * span.start_ms) / total, 99.6)}%`;
  bar.style.width = `${Math.max((100 * span.duration_ms) / total, 0.4)}%`;
  const dark = document.createElement("span");
  dark.style.width = `${100 * (share > 0.995 ? 1 : share)}%`;
  bar.append(dark);
  const element = make("div", name, cell("track", bar), cell("time", milliseconds(span.duration_ms)));
  element.className = "span";
  element.dataset.kind = words(kind);
  element.setAttribute("role", "row");
  element.title = `${words(kind)} ${span.name}: from ${milliseconds(span.start_ms)}, ` +
    `${milliseconds(span.duration_ms)}, of which ${milliseconds(span.critical_ms)} waited for`;
  return element;
}

function cell(name, ...children) {
  const element = make("span", ...children);
  element.className = name;
  element.setAttribute("role", "cell");
  return element;
}

// The spans to draw, and those too short to matter when there are many. Tools are always drawn.
function fold(spans) {
  const ordered = [...spans].sort((a, b) => a.start_ms - b.start_ms || b.duration_ms - a.duration_ms);
  const short = ordered
    .filter((span) => span.kind !== "SPAN_KIND_TOOL")
    .sort((a, b) => a.duration_ms - b.duration_ms)
    .slice(0, Math.max(ordered.length - MOST_ROWS, 0));
  const left = new Set(short);
  return { shown: ordered.filter((span) => !left.has(span)), folded: short };
}

export function milliseconds(value) {
  if (value >= 999.5) return `${(value / 1000).toFixed(value < 99_995 ? 2 : 0)} s`;
  if (value >= 99.95) return `${value.toFixed(0)} ms`;
  return `${value.toFixed(value >= 9.995 ? 1 : 2)} ms`;
}

function words(kind) {
  return kind.toLowerCase().replaceAll("_", " ");
}

function note(text) {
  const element = make("p", text);
  element.className = "muted small";
  return element;
}

function mark(shade) {
  const element = document.createElement("i");
  element.className = shade;
  return element;
}
