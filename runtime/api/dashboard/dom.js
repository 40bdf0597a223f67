// Elements, and how what is shown becomes what is to be shown.

/** Makes an element: `h("a.first", { href }, "text", child)`. Functions are set as properties, so that `patch` can carry them over. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  const first = rest[0];
  if (first && typeof first === "object" && !(first instanceof Node) && !Array.isArray(first)) set(element, rest.shift());
  add(element, rest);
  return element;
}

/** The same for SVG. */
export function s(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  set(element, attributes);
  add(element, children);
  return element;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function" || name === "value") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) element.append(child);
  }
}

const HANDLERS = ["onclick", "onsubmit", "onchange", "ontoggle"];

/** Makes what an element shows equal to these children, and leaves alone what is equal: focus, selection and open parts stay. */
export function patch(element, ...children) {
  const wanted = document.createElement("div");
  add(wanted, children);
  same(element, wanted);
}

function same(now, wanted) {
  const next = [...wanted.childNodes];
  while (now.childNodes.length > next.length) now.lastChild.remove();
  next.forEach((node, at) => {
    const old = now.childNodes[at];
    if (!old) now.append(node);
    else if (old.nodeName !== node.nodeName || old.id !== node.id || old.dataset?.key !== node.dataset?.key) old.replaceWith(node);
    else if (node.nodeType !== Node.ELEMENT_NODE) { if (old.data !== node.data) old.data = node.data; }
    else if (!old.hasAttribute("data-own")) become(old, node);
  });
}

function become(old, node) {
  for (const { name } of [...old.attributes]) {
    // Whether a part is open is for who looks at it.
    if (!node.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const handler of HANDLERS) old[handler] = node[handler];
  same(old, node);
}

/** A table: its columns as `[title, isNumber]`, its rows as cells. */
export function table(label, columns, rows) {
  const cell = (content, at) => h(columns[at][1] ? "td.number" : "td", content);
  return h("div.scroll", h("table", { "aria-label": label },
    columns.some(([title]) => title) && h("thead", h("tr", columns.map(([title, isNumber]) => h(isNumber ? "th.number" : "th", { scope: "col" }, title)))),
    h("tbody", rows.map((row) => row instanceof Node ? row : h("tr", row.map((c, at) => c instanceof HTMLTableCellElement ? c : cell(c, at)))))));
}

/** `1 234 567`, in groups, or shortened from ten thousand on. */
export function number(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return `${value >= 100 ? number(value) : value >= 0.05 ? value.toFixed(1) : "0"}/s`;
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

/** How long something is, in the unit that tells most. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${Number(ms.toFixed(2))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(1)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function time(ms) {
  return ms === null || ms === undefined ? "–" : new Date(ms).toISOString().replace("T", " ").replace("Z", "");
}

export function state(name) {
  return h(`span.state.${name}`, name);
}

/** A key, value or header of an event as text. */
export function text(value) {
  if (value === null || value === undefined) return null;
  return typeof value === "string" ? value : `base64:${value.base64}`;
}

/** JSON in colours, on several lines; anything else as it is. */
export function pretty(value) {
  let parsed;
  try { parsed = JSON.parse(value); } catch { return h("pre", value); }
  const told = JSON.stringify(parsed, null, 2);
  const parts = told.split(/("(?:\\.|[^"\\])*"(?:\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/);
  const kind = (part) => part.startsWith('"') ? (part.endsWith(":") ? "key" : "text") : /^[-\d]/.test(part) ? "number" : "word";
  return h("pre.json", parts.map((part, at) => at % 2 ? h(`span.${kind(part)}`, part) : part));
}
