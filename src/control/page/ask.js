// Asks the server: one object, or lines of JSON as they come. The token, where one is wanted, lives as long as the tab.

const TOKEN = "ringway.token";

/** Why there is no answer: `status` is that of HTTP, 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(`api/v1/${path}`, { headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "no answer");
  }
  if (response.ok) return response;
  const text = await response.text();
  let said = text;
  try {
    said = JSON.parse(text).error ?? text;
  } catch {
    // It is no JSON: it is said as it is.
  }
  throw new Refused(response.status, said);
}

/** How long an answer may take. */
const PATIENCE_MS = 5000;

export async function one(path) {
  const response = await ask(path, AbortSignal.timeout(PATIENCE_MS)).catch((error) => {
    throw error.name === "TimeoutError" ? new Refused(0, "no answer") : error;
  });
  return response.json();
}

/**
 * Hands `take` each line of a listing or a trace, until it ends, `take` says false, or `signal` ends it. A listing that is broken off
 * here costs the server no more than what it has sent.
 */
export async function lines(path, take, signal) {
  const ended = new AbortController();
  signal?.addEventListener("abort", () => ended.abort());
  if (signal?.aborted) return;
  try {
    const response = await ask(path, ended.signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + value).split("\n");
      held = parts.pop();
      for (const part of parts) {
        if (part && take(JSON.parse(part)) === false) {
          ended.abort();
          return;
        }
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}
