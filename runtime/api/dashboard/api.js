// How the page speaks with the node.

const KEPT = "sluice-token";

/** What the node says is wrong. */
export class Problem extends Error {
  constructor({ status, detail, help }) {
    super(detail);
    this.status = status;
    this.help = help;
  }
}

/** The token, until the browser's tab is closed. */
export function useToken(token) {
  sessionStorage.setItem(KEPT, token);
}

export function hasToken() {
  return Boolean(sessionStorage.getItem(KEPT));
}

function headers(more) {
  const token = sessionStorage.getItem(KEPT);
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, detail: "the node does not answer", help: "is it running? this page goes on by itself once it is" });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ status: response.status, detail: `the node answers ${response.status}` }));
  throw new Problem(told);
}

export async function get(path) {
  return (await send(path, { headers: headers({ accept: "application/json" }) })).json();
}

export async function order(method, path, body) {
  const response = await send(path, { method, headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body) });
  return response.json();
}

/** Follows Server-Sent Events, which browsers' own reader would ask for without a token. `told` gets the data of each. */
export async function follow(path, signal, told) {
  const response = await send(path, { headers: headers({ accept: "text/event-stream" }), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) told(JSON.parse(data.join("\n")));
    }
  }
}

/** One part of a path. */
export function part(name) {
  return encodeURIComponent(name);
}
