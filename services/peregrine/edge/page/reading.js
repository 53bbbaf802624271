// Reads a run to its end over connections that may not last that long.
//
// Every event has a position (its sequence, under an epoch). When a connection is lost, the next one
// begins after the last position seen, so each event is passed on once and in order.

import { request } from "./key.js";

const QUIET_MS = 40_000; // two heartbeats and some: the connection is gone
const LONGEST_WAIT_MS = 5_000;
const WORTH_RETRYING = new Set([408, 429, 502, 503, 504]);

export class Problem extends Error {
  constructor(members) {
    super(members.detail || members.title || "The request failed.");
    this.reason = members.reason || "";
    this.status = members.status || 0;
    this.retryAfter = members.retry_after ?? null;
  }
}

export async function ask(path, options = {}) {
  const response = await request(path, options);
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

// `start` is the body of a new run, its request_id included: asked again it is the same run.
// `onEvent` gets each event, `onLost` true when the connection is lost and false when it is back.
export async function read({ start, runId, after, epoch, signal, onEvent, onLost }) {
  let cursor = { sequence: after ?? 0, epoch: epoch ?? null };
  let failures = 0;
  for (;;) {
    try {
      const response = await open({ start, runId, cursor, signal });
      if (response.status === 204) return;
      if (!response.ok) throw await problemOf(response);
      for await (const { name, data } of frames(response.body, signal)) {
        // A key that ended in the middle is asked for again, by the next request.
        if (name === "problem" && data.status === 401) break;
        if (name === "problem") throw new Problem(data);
        if (data.sequence <= cursor.sequence && data.epoch <= (cursor.epoch ?? data.epoch)) continue;
        cursor = { sequence: data.sequence, epoch: data.epoch };
        runId = data.run_started?.run_id ?? runId;
        if (failures) onLost(false);
        failures = 0;
        onEvent(data);
        if (data.run_finished) return;
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Problem && !WORTH_RETRYING.has(error.status)) throw error;
      if (error instanceof Problem && failures >= 8) throw error;
      if (error instanceof Problem && error.retryAfter) await pause(error.retryAfter * 1000, signal);
    }
    failures += 1;
    if (failures > 1) onLost(true);
    await pause(Math.min(125 * 2 ** failures, LONGEST_WAIT_MS) * (0.5 + Math.random() / 2), signal);
  }
}

function open({ start, runId, cursor, signal }) {
  if (!runId) {
    return request("/v1/chat/stream", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(start),
      signal,
    });
  }
  const query = new URLSearchParams({ after: cursor.sequence });
  if (cursor.epoch !== null) query.set("epoch", cursor.epoch);
  return request(`/v1/runs/${runId}/events?${query}`, { signal });
}

async function* frames(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const leave = () => reader.cancel().catch(() => {});
  signal.addEventListener("abort", leave);
  let rest = "";
  try {
    for (;;) {
      const timer = setTimeout(leave, QUIET_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      rest += value;
      const whole = rest.split("\n\n");
      rest = whole.pop();
      for (const frame of whole) {
        const fields = Object.fromEntries(frame.split("\n").map((line) => split(line)));
        if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) };
      }
    }
  } finally {
    signal.removeEventListener("abort", leave);
    leave();
  }
}

function split(line) {
  const at = line.indexOf(": ");
  return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 2)];
}

async function problemOf(response) {
  const members = await response.json().catch(() => ({}));
  return new Problem({ status: response.status, title: response.statusText, ...members });
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(new DOMException("left", "AbortError")));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), milliseconds);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
