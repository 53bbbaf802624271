// What the events of a run add up to: parts in order (text, tool calls), and its state.
//
// Not everything in a log keeps counting: `generation_restarted` and `log_truncated` say from where
// on what was read is void. So the events are kept, and folded anew when some are dropped.

export class Transcript {
  constructor() {
    this.events = [];
    this.reset();
  }

  reset() {
    this.runId = "";
    this.agent = "";
    this.conversationId = "";
    this.state = "RUN_STATE_RUNNING";
    this.model = "";
    this.simulated = false;
    this.note = "";
    this.parts = [];
    this.finished = null;
  }

  // True when earlier events were dropped, so that what is drawn must be drawn anew.
  add(event) {
    const through = Math.min(validThrough(event), event.sequence - 1);
    const kept = this.events.filter((each) => each.sequence <= through);
    const dropped = kept.length < this.events.length;
    this.events = [...kept, event];
    if (dropped) {
      this.reset();
      for (const each of this.events) this.fold(each);
    } else {
      this.fold(event);
    }
    return dropped;
  }

  get tools() {
    return this.parts.filter((part) => part.kind === "tool");
  }

  fold(event) {
    const time = Date.parse(event.create_time);
    if (event.run_started) {
      this.runId = event.run_started.run_id;
      this.agent = event.run_started.agent;
      this.conversationId = event.run_started.conversation_id;
    } else if (event.step_started) {
      this.model = event.step_started.model;
      this.simulated = event.step_started.simulated;
      this.goOn();
    } else if (event.text_delta) {
      const { step, text } = event.text_delta;
      const last = this.parts.at(-1);
      if (last?.kind === "text" && last.step === step) last.text += text;
      else this.parts.push({ kind: "text", step, text });
      this.note = "";
    } else if (event.tool_call_started) {
      this.parts.push({ kind: "tool", ...event.tool_call_started, startTime: time, result: null });
      this.goOn();
    } else if (event.tool_call_finished) {
      const tool = this.tools.find((each) => each.call_id === event.tool_call_finished.call_id);
      if (tool) tool.result = { ...event.tool_call_finished, time };
      this.goOn();
    } else if (event.model_retrying) {
      this.note = "The model is being asked again";
    } else if (event.run_taken_over) {
      this.note = "Another process goes on with this answer";
    } else if (event.run_waiting) {
      this.state = event.run_waiting.state;
      this.note = `${event.run_waiting.tool} waits for a decision`;
    } else if (event.run_finished) {
      this.finished = event.run_finished;
      this.state = event.run_finished.state;
      this.note = "";
    }
  }

  goOn() {
    this.note = "";
    this.state = "RUN_STATE_RUNNING";
  }
}

// The last earlier position that still counts once `event` was appended.
function validThrough(event) {
  if (event.generation_restarted) return event.generation_restarted.discard_from - 1;
  if (event.log_truncated) return event.log_truncated.to;
  return Infinity;
}

// The turns of a conversation from its stored messages: what the user said, and the parts that
// answered, by the run that wrote them.
export function turnsOf(messages) {
  const turns = [];
  for (const stored of messages) {
    const content = stored.message.content;
    const said = content.filter((block) => "text" in block).map((block) => block.text).join("\n");
    const outcomes = content.filter((block) => block.tool_outcome);
    if (stored.message.role === "ROLE_USER" && !outcomes.length) {
      turns.push({ said, runId: stored.run_id, parts: [] });
      continue;
    }
    const turn = turns.at(-1);
    if (!turn) continue;
    turn.runId = stored.run_id || turn.runId;
    for (const block of content) {
      if (block.text) turn.parts.push({ kind: "text", text: block.text });
      if (block.tool_use) turn.parts.push({ kind: "tool", ...block.tool_use, result: null });
      if (block.tool_outcome) {
        const { call_id, content: shown, is_error } = block.tool_outcome;
        const tool = turn.parts.find((part) => part.call_id === call_id);
        const status = `TOOL_CALL_STATUS_${is_error ? "FAILED" : "SUCCEEDED"}`;
        if (tool) tool.result = { status, content: shown };
      }
    }
  }
  return turns;
}
