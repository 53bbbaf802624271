// One turn on the page: what was said, and the answer as it grows.

import { make, render } from "./markdown.js";
import { draw, milliseconds } from "./waterfall.js";

const TICK_MS = 100;

export class Turn {
  constructor(said) {
    this.element = document.createElement("article");
    this.element.className = "turn";
    const question = make("div", said);
    question.className = "said";
    question.setAttribute("aria-label", "You said");
    this.body = make("div");
    this.body.className = "answer";
    this.foot = make("footer");
    this.element.append(question, this.body, this.foot);
    this.parts = [];
    this.drawn = 0;
    this.ticking = 0;
  }

  // Draws at the next frame, however many events come until then.
  update(transcript) {
    this.transcript = transcript;
    this.drawn ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawn = 0;
    const { parts, finished, note } = this.transcript;
    this.body.setAttribute("aria-busy", String(!finished));
    this.showParts(parts, !finished);
    this.showNote(finished ? "" : note || (parts.length ? "" : "Thinking"));
    if (finished) this.end();
    else this.ticking ||= setInterval(() => this.tick(), TICK_MS);
    this.element.dispatchEvent(new CustomEvent("grown", { bubbles: true }));
  }

  showParts(parts, live) {
    parts.forEach((part, index) => {
      const known = this.parts[index];
      if (!known || known.kind !== part.kind || known.callId !== part.call_id) {
        const made = part.kind === "text" ? new Prose() : new Tool(part);
        if (known) known.element.replaceWith(made.element);
        else this.body.append(made.element);
        this.parts[index] = made;
      }
      this.parts[index].show(part, live && index === parts.length - 1);
    });
    for (const extra of this.parts.splice(parts.length)) extra.element.remove();
  }

  showNote(text) {
    if (!text) {
      this.note?.remove();
      this.note = null;
      return;
    }
    this.note ??= make("p");
    this.note.className = "note";
    this.note.textContent = text;
    this.body.append(this.note);
  }

  tick() {
    for (const part of this.parts) part.tick?.();
  }

  end() {
    clearInterval(this.ticking);
    const { finished, model, simulated } = this.transcript;
    const facts = [];
    if (finished.state === "RUN_STATE_CANCELLED") facts.push(fact("Stopped", "warn"));
    if (finished.state === "RUN_STATE_FAILED") {
      const why = finished.error?.message || finished.error?.reason || "The run failed";
      const failure = make("p", why);
      failure.className = "failure";
      this.body.append(failure);
      facts.push(fact("Failed", "bad"));
    }
    if (finished.truncated) facts.push(fact("Ended by the step limit", "warn"));
    for (const lost of finished.degradations ?? []) facts.push(fact(`without ${lost.what}`, "warn"));
    if (model) facts.push(fact(simulated ? `${model}, simulated` : model));
    const usage = finished.usage;
    if (usage) facts.push(fact(`${count(usage.input_tokens)} tokens in, ${count(usage.output_tokens)} out`));
    const waterfall = finished.waterfall;
    const line = make("p", ...facts);
    line.className = "facts";
    this.foot.replaceChildren(line);
    if (waterfall?.spans?.length) {
      const details = make("details", make("summary", milliseconds(waterfall.wall_ms)), draw(waterfall));
      details.firstChild.title = "Where the time went";
      details.open = true;
      this.foot.append(details);
    }
  }

  // A turn of the past: what was stored, and its log only when somebody wants it.
  past(parts, load) {
    this.showParts(parts, false);
    if (!load) return;
    const button = make("button", "Where the time went");
    button.type = "button";
    button.className = "link";
    button.addEventListener("click", () => load(button));
    this.foot.replaceChildren(button);
  }

  // Nothing more will come; what came is drawn.
  leave() {
    cancelAnimationFrame(this.drawn);
    if (this.drawn) this.draw();
    clearInterval(this.ticking);
    if (!this.transcript?.finished) this.showNote("");
    this.body.setAttribute("aria-busy", "false");
  }
}

class Prose {
  kind = "text";

  constructor() {
    this.element = make("div");
    this.element.className = "text";
  }

  show(part, growing) {
    render(this.element, part.text);
    this.element.classList.toggle("growing", growing);
  }
}

class Tool {
  kind = "tool";

  constructor(part) {
    this.callId = part.call_id;
    this.mark = make("span");
    this.mark.className = "mark";
    this.mark.setAttribute("aria-hidden", "true");
    this.time = make("span");
    this.time.className = "time";
    const given = make("span", brief(part.arguments));
    given.className = "given";
    const name = make("b", part.tool);
    this.summary = make("summary", this.mark, name, given, this.time);
    this.shown = make("pre");
    const asked = make("pre", JSON.stringify(part.arguments, null, 2));
    this.element = make("details", this.summary, asked, this.shown);
    this.element.className = "tool";
  }

  show(part) {
    this.part = part;
    const result = part.result;
    const state = result ? (result.status === "TOOL_CALL_STATUS_SUCCEEDED" ? "done" : "failed") : "running";
    if (this.element.dataset.state === state) return;
    this.element.dataset.state = state;
    this.mark.textContent = { done: "✓", failed: "✗", running: "" }[state];
    this.shown.hidden = !result;
    this.shown.textContent = result ? textOf(result.content) || result.error?.message || "" : "";
    if (!result) return this.tick();
    const took = result.execution_time ? milliseconds(parseFloat(result.execution_time) * 1000) : "";
    this.time.textContent = result.reused ? "reused" : result.cached ? `cached ${took}` : took;
  }

  tick() {
    if (this.part?.result || !this.part?.startTime) return;
    this.time.textContent = `${(Math.max(Date.now() - this.part.startTime, 0) / 1000).toFixed(1)} s`;
  }
}

function brief(given) {
  if (given === null || typeof given !== "object") return String(given ?? "");
  const values = Object.values(given);
  const text = values.length === 1 ? values[0] : given;
  return (typeof text === "string" ? text : JSON.stringify(text)).slice(0, 200);
}

function textOf(content) {
  return content.filter((block) => "text" in block).map((block) => block.text).join("\n");
}

function fact(text, tone = "") {
  const element = make("span", text);
  if (tone) element.className = tone;
  return element;
}

function count(tokens) {
  return Number(tokens).toLocaleString("en");
}
