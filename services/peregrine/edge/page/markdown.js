// Markdown, as much of it as answers use, into elements. Text becomes text nodes and nothing else:
// what a model says can never become markup.
//
// While an answer grows, only the blocks that changed are made anew.

export function render(into, text) {
  const sources = blocks(text);
  const old = [...into.children];
  sources.forEach((source, index) => {
    if (old[index]?.dataset.source === source) return;
    const element = block(source);
    element.dataset.source = source;
    if (old[index]) old[index].replaceWith(element);
    else into.append(element);
  });
  for (const extra of old.slice(sources.length)) extra.remove();
}

function blocks(text) {
  const found = [];
  let current = [];
  let fenced = false;
  const end = () => {
    if (current.length) found.push(current.join("\n"));
    current = [];
  };
  for (const line of text.split("\n")) {
    if (/^\s*```/.test(line)) {
      if (!fenced) end();
      current.push(line);
      if (fenced) end();
      fenced = !fenced;
    } else if (fenced) {
      current.push(line);
    } else if (!line.trim()) {
      end();
    } else {
      if (current.length && kind(line) !== kind(current[0]) && kind(line) !== "text") end();
      current.push(line);
      if (kind(line) === "heading") end();
    }
  }
  end();
  return found;
}

function kind(line) {
  if (/^#{1,6} /.test(line)) return "heading";
  if (/^\s*[-*+] /.test(line)) return "ul";
  if (/^\s*\d{1,3}[.)] /.test(line)) return "ol";
  if (/^> ?/.test(line)) return "quote";
  if (/^\|.*\|\s*$/.test(line)) return "table";
  return "text";
}

function block(source) {
  const lines = source.split("\n");
  if (/^\s*```/.test(source)) {
    const closed = lines.length > 1 && /^\s*```\s*$/.test(lines.at(-1));
    return make("pre", make("code", lines.slice(1, closed ? -1 : undefined).join("\n")));
  }
  switch (kind(source)) {
    case "heading": {
      const [, marks, title] = /^(#+) (.*)$/.exec(source);
      return inline(document.createElement(marks.length < 2 ? "h3" : "h4"), title);
    }
    case "ul":
    case "ol":
      return list(kind(source), lines);
    case "quote":
      return inline(document.createElement("blockquote"), lines.map((line) => line.replace(/^> ?/, "")).join("\n"));
    case "table":
      return table(lines);
    default:
      return inline(document.createElement("p"), source);
  }
}

function list(name, lines) {
  const element = document.createElement(name);
  const first = /^\s*(\d+)/.exec(lines[0]);
  if (name === "ol" && first) element.start = Number(first[1]);
  const items = [];
  for (const line of lines) {
    if (kind(line) === "text" && items.length) items[items.length - 1] += `\n${line.trim()}`;
    else items.push(line.replace(/^\s*([-*+]|\d{1,3}[.)]) /, ""));
  }
  for (const item of items) element.append(inline(document.createElement("li"), item));
  return element;
}

function table(lines) {
  const element = document.createElement("table");
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
  const rule = /^\|[\s:|-]+\|\s*$/;
  const header = lines.length > 1 && rule.test(lines[1]);
  lines.forEach((line, index) => {
    if (rule.test(line)) return;
    const row = document.createElement("tr");
    for (const cell of cells(line)) {
      row.append(inline(document.createElement(header && index === 0 ? "th" : "td"), cell.trim()));
    }
    element.append(row);
  });
  const box = make("div", element);
  box.className = "table";
  return box;
}

const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/;

function inline(into, text) {
  let rest = text;
  for (let found; (found = INLINE.exec(rest)); rest = rest.slice(found.index + found[0].length)) {
    into.append(rest.slice(0, found.index));
    if (found[1]) into.append(make("code", found[1]));
    else if (found[2]) into.append(inline(document.createElement("strong"), found[2]));
    else if (found[3]) into.append(inline(document.createElement("em"), found[3]));
    else into.append(link(found[4], found[5]));
  }
  into.append(rest);
  return into;
}

function link(text, address) {
  const element = make("a", text);
  element.href = address;
  element.rel = "noopener noreferrer";
  element.target = "_blank";
  return element;
}

export function make(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}
