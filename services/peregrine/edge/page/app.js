// The page: conversations at the side, one of them open, one run at most being followed.
//
// The address names the conversation and, while an answer is made, its run: `/?c=…&run=…`. A reload
// reads that run's log again from its beginning, which draws at once what was there and goes on.
// A question whose run is not known yet is kept with its request id and asked again: the same id is
// the same run.

import { signedIn, signOut } from "./key.js";
import { make } from "./markdown.js";
import { ask, Problem, read } from "./reading.js";
import { Transcript, turnsOf } from "./transcript.js";
import { Turn } from "./turn.js";

const $ = (id) => document.getElementById(id);
const ui = Object.fromEntries(
  ["side", "conversations", "no-conversations", "sign-out", "new", "veil", "menu", "title", "simulated", "scroll",
    "log", "empty", "ideas", "composer", "latest", "notice", "message", "agent", "hint", "send",
    "stop", "status"].map((id) => [id.replace(/-(.)/, (_, letter) => letter.toUpperCase()), $(id)]),
);
const IDEAS = [
  "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?",
  "What can you help me with?",
  "What time is it in Tokyo, and how long until midnight there?",
];
const PENDING = "peregrine.pending";
const AGENT = "peregrine.agent";
const SETTLED = /SUCCEEDED|FAILED|CANCELLED/;

let open = { conversation: "", run: "", turn: null, leaving: new AbortController() };
let pinned = true;

// ---- Opening ----

async function show(conversation, run = "") {
  leave();
  open.conversation = conversation;
  address();
  ui.log.replaceChildren();
  ui.simulated.hidden = true;
  ui.title.textContent = "New conversation";
  ui.empty.hidden = Boolean(conversation || run);
  busy(false);
  say("");
  sidebar(false);
  markOpen();
  const { signal } = open.leaving;
  try {
    if (conversation) await history(conversation, signal);
    else if (run) await follow({ runId: run, said: "…" });
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
  ui.message.focus();
}

async function history(conversation, signal) {
  const [found, messages, runs] = await Promise.all([
    ask(`/v1/conversations/${conversation}`, { signal }),
    everyMessage(conversation, signal),
    ask(`/v1/runs?${new URLSearchParams({ conversation_id: conversation, page_size: 1 })}`, { signal }),
  ]);
  ui.title.textContent = found.title || "Conversation";
  if (found.agent_id) chooseAgent(found.agent_id);
  const turns = turnsOf(messages);
  const newest = runs.runs[0];
  turns.forEach((turn, index) => {
    const last = index === turns.length - 1;
    const element = new Turn(turn.said);
    ui.log.append(element.element);
    if (last && newest) return followInto(element, newest.run_id, turn);
    element.past(turn.parts, turn.runId && ((button) => replay(element, turn, button)));
  });
  stick(true);
}

async function everyMessage(conversation, signal) {
  const found = [];
  for (let token = ""; ; ) {
    const query = new URLSearchParams({ page_size: 200, page_token: token });
    const page = await ask(`/v1/conversations/${conversation}/messages?${query}`, { signal });
    found.push(...page.messages);
    token = page.next_page_token;
    if (!token) return found;
  }
}

// A run that was over long ago has no log any more: what was stored is shown then.
function followInto(element, runId, turn) {
  follow({ runId, turn: element, quiet: true }).catch((error) => {
    if (error instanceof Problem && [404, 410].includes(error.status)) element.past(turn.parts);
    else if (error.name !== "AbortError") fail(error);
  });
}

async function replay(element, turn, button) {
  button.disabled = true;
  const transcript = new Transcript();
  try {
    await read({
      runId: turn.runId,
      signal: open.leaving.signal,
      onLost: () => {},
      onEvent: (event) => transcript.add(event),
    });
    if (transcript.finished) element.update(transcript);
    else element.past(turn.parts);
  } catch (error) {
    if (error.name === "AbortError") return;
    button.replaceWith(make("span", "The log of this run is gone"));
  }
}

function leave() {
  open.leaving.abort();
  open.turn?.leave();
  open = { conversation: "", run: "", turn: null, leaving: new AbortController() };
}

// ---- A run ----

async function send(text) {
  if (!text.trim() || open.turn) return;
  await known; // a fast writer may be here before the agents are
  const start = { agent: ui.agent.value, message: text, request_id: crypto.randomUUID() };
  if (open.conversation) start.conversation_id = open.conversation;
  sessionStorage.setItem(PENDING, JSON.stringify(start));
  ui.message.value = "";
  grow();
  begin(start);
}

function begin(start) {
  say("");
  ui.empty.hidden = true;
  const { signal } = open.leaving;
  follow({ start, said: start.message }).catch((error) => {
    if (signal.aborted) return;
    sessionStorage.removeItem(PENDING);
    if (error instanceof Problem && !open.run) {
      // It was never accepted: the words go back to where they were written.
      ui.log.lastElementChild?.remove();
      ui.message.value = start.message;
      ui.empty.hidden = ui.log.childElementCount > 0;
      grow();
    }
    fail(error);
  });
}

async function follow({ start, runId, said, turn, quiet }) {
  const mine = open;
  const { signal } = mine.leaving;
  const transcript = new Transcript();
  const shown = turn ?? new Turn(said);
  if (!turn) ui.log.append(shown.element);
  mine.turn = shown;
  mine.run = runId ?? "";
  if (!quiet) busy(true);
  shown.update(transcript);
  if (!quiet) stick(true);
  try {
    await read({
      start,
      runId,
      signal,
      onLost: (lost) => say(lost ? "The connection is lost. Trying again …" : ""),
      onEvent: (event) => {
        transcript.add(event);
        tell(event, transcript, mine);
        shown.update(transcript);
      },
    });
  } finally {
    if (open === mine) {
      mine.turn = null;
      mine.run = "";
      shown.leave();
      busy(false);
      address();
      if (!quiet) list();
    }
  }
}

// What an event changes outside of its turn.
function tell(event, transcript, mine) {
  if (event.run_started) {
    mine.run = event.run_started.run_id;
    mine.conversation = event.run_started.conversation_id;
    sessionStorage.removeItem(PENDING);
    address();
    if (ui.title.textContent === "New conversation") {
      ui.title.textContent = mine.turn.element.querySelector(".said").textContent;
    }
    if (mine.unwanted) stop();
    setTimeout(list, 300);
  }
  if (event.step_started) ui.simulated.hidden = !event.step_started.simulated;
  if (event.tool_call_started) announce(`Running ${event.tool_call_started.tool}`);
  if (event.run_finished) announce(SETTLED.exec(event.run_finished.state)?.[0] === "SUCCEEDED" ? "The answer is complete" : "The answer has ended");
  busy(!transcript.finished);
}

async function stop() {
  if (!open.turn) return;
  if (!open.run) {
    open.unwanted = true; // nobody knows its name yet
    return;
  }
  ui.stop.disabled = true;
  try {
    await ask(`/v1/runs/${open.run}/cancel`, { method: "POST" });
  } catch (error) {
    fail(error);
  }
}

// ---- The side ----

async function list() {
  let found;
  try {
    found = await ask("/v1/conversations?page_size=100");
  } catch (error) {
    return fail(error);
  }
  ui.noConversations.hidden = found.conversations.length > 0;
  ui.conversations.replaceChildren(...found.conversations.map(entry));
  markOpen();
}

function entry(conversation) {
  const link = make("a", make("span", conversation.title || "Conversation"), make("time", ago(conversation.update_time)));
  link.href = `/?c=${conversation.conversation_id}`;
  link.dataset.id = conversation.conversation_id;
  link.title = conversation.title;
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    show(conversation.conversation_id);
  });
  const remove = make("button", "×");
  remove.type = "button";
  remove.className = "remove";
  const reset = () => {
    remove.textContent = "×";
    remove.dataset.sure = "";
    remove.setAttribute("aria-label", `Delete “${conversation.title}”`);
  };
  reset();
  remove.addEventListener("blur", reset);
  remove.addEventListener("click", async () => {
    if (!remove.dataset.sure) {
      remove.dataset.sure = "yes";
      remove.textContent = "Delete";
      remove.setAttribute("aria-label", `Really delete “${conversation.title}”`);
      return;
    }
    try {
      await ask(`/v1/conversations/${conversation.conversation_id}`, { method: "DELETE" });
      if (open.conversation === conversation.conversation_id) show("");
      await list();
    } catch (error) {
      fail(error);
    }
  });
  return make("li", link, remove);
}

function markOpen() {
  for (const link of ui.conversations.querySelectorAll("a")) {
    if (link.dataset.id === open.conversation) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function sidebar(shown) {
  document.body.classList.toggle("side-open", shown);
  ui.menu.setAttribute("aria-expanded", String(shown));
  ui.veil.hidden = !shown;
}

function ago(time) {
  const seconds = Math.max((Date.now() - Date.parse(time)) / 1000, 0);
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

// ---- Small things ----

function address() {
  const query = new URLSearchParams();
  if (open.conversation) query.set("c", open.conversation);
  if (open.run) query.set("run", open.run);
  const wanted = query.size ? `/?${query}` : "/";
  if (wanted === location.pathname + location.search) return;
  const moved = new URLSearchParams(location.search).get("c") !== (open.conversation || null);
  remember(moved ? "pushState" : "replaceState", wanted);
}

function remember(how, wanted) {
  window.history[how](null, "", wanted);
}

function busy(running) {
  ui.send.hidden = running;
  ui.stop.hidden = !running;
  ui.stop.disabled = false;
  ui.hint.textContent = running ? "Esc stops" : "Enter sends";
  ui.send.disabled = !ui.message.value.trim();
}

function say(text) {
  ui.notice.textContent = text;
  ui.notice.hidden = !text;
}

function fail(error) {
  if (error.name === "AbortError") return;
  const offline = error instanceof TypeError;
  say(offline ? "Peregrine cannot be reached." : error.message);
}

function announce(text) {
  ui.status.textContent = text;
}

function stick(now = false) {
  if (now) pinned = true;
  if (pinned) ui.scroll.scrollTop = ui.scroll.scrollHeight;
  ui.latest.hidden = pinned;
}

function grow() {
  ui.message.style.height = "auto";
  ui.message.style.height = `${Math.min(ui.message.scrollHeight, 240)}px`;
  ui.send.disabled = !ui.message.value.trim();
}

function chooseAgent(name) {
  if ([...ui.agent.options].some((option) => option.value === name)) ui.agent.value = name;
}

async function agents() {
  const found = await ask("/v1/agents?page_size=200");
  ui.agent.replaceChildren(
    ...found.agents.map((agent) => {
      const option = make("option", agent.name);
      option.value = agent.name;
      option.title = agent.spec?.description || agent.spec?.model || "";
      return option;
    }),
  );
  chooseAgent(localStorage.getItem(AGENT));
  if (!found.agents.length) say("There is no agent yet: peregrine apply -f examples/");
}

// ---- Wiring ----

ui.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send(ui.message.value);
});
ui.message.addEventListener("input", grow);
ui.message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(ui.message.value);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (document.body.classList.contains("side-open")) {
    sidebar(false);
    ui.menu.focus();
  } else {
    stop();
  }
});
ui.stop.addEventListener("click", stop);
ui.new.addEventListener("click", () => show(""));
ui.signOut.addEventListener("click", signOut);
document.addEventListener("signed", () => (ui.signOut.hidden = !signedIn()));
ui.menu.addEventListener("click", () => {
  sidebar(!document.body.classList.contains("side-open"));
  if (document.body.classList.contains("side-open")) ui.new.focus();
});
ui.veil.addEventListener("click", () => sidebar(false));
ui.latest.addEventListener("click", () => stick(true));
ui.agent.addEventListener("change", () => localStorage.setItem(AGENT, ui.agent.value));
ui.log.addEventListener("grown", () => stick());
ui.scroll.addEventListener("scroll", () => {
  pinned = ui.scroll.scrollHeight - ui.scroll.scrollTop - ui.scroll.clientHeight < 60;
  ui.latest.hidden = pinned;
}, { passive: true });
document.querySelector(".brand").addEventListener("click", (event) => {
  event.preventDefault();
  show("");
});
addEventListener("popstate", () => {
  const query = new URLSearchParams(location.search);
  show(query.get("c") ?? "", query.get("run") ?? "");
});
for (const idea of IDEAS) {
  const button = make("button", idea);
  button.type = "button";
  button.addEventListener("click", () => send(idea));
  ui.ideas.append(make("li", button));
}

async function main() {
  const query = new URLSearchParams(location.search);
  const pending = sessionStorage.getItem(PENDING);
  list();
  ui.empty.hidden = query.has("c") || query.has("run") || pending !== null;
  if (!ui.empty.hidden) return;
  await known;
  if (query.has("c") || query.has("run")) await show(query.get("c") ?? "", query.get("run") ?? "");
  if (pending && !query.has("run")) begin(JSON.parse(pending));
}

ui.signOut.hidden = !signedIn();
const known = agents().catch(fail);
main();
