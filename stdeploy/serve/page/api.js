/** The server's HTTP interface. Addresses are relative, so that the page works under a prefix. */

const KEY = "stdeploy-api-key";
const OUT_OF_REACH = "The server cannot be reached.";
const CUT_OFF = "The connection ended before the answer was complete.";

/** Something that went wrong, in words that can be shown. */
export class Fault extends Error {
  /**
   * @param {string} words a sentence.
   * @param {{code?: string, status?: number, retrySeconds?: ?number, requestId?: string,
   *   isCutOff?: boolean}} facts status: of HTTP; 0 where there was no answer; isCutOff: the
   *   connection ended too early.
   */
  constructor(
    words,
    { code = "", status = 0, retrySeconds = null, requestId = "", isCutOff = false } = {},
  ) {
    super(words);
    Object.assign(this, { code, status, retrySeconds, requestId, isCutOff });
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The path and query of a classification. */
export function classifyPath({ hop, views, stream = false, timeline = false }) {
  const query = new URLSearchParams();
  if (stream) query.set("stream", "1");
  if (timeline) query.set("timeline", "1");
  query.set("top_k", "5");
  if (timeline) query.set("hop_seconds", hop);
  if (views) query.set("views", views);
  return `v1/classify?${query}`;
}

/** What kind of body a file is; the server tells containers by their content. */
export function mediaType(file) {
  return file.type.startsWith("video/") ? file.type : "application/octet-stream";
}

/** What is being served; throws Fault. */
export async function fetchModel() {
  const answer = await asked("v1/models", { cache: "no-store" });
  if (!answer.models?.length) throw new Fault("The server names no model.", { status: 200 });
  return answer.models[0];
}

/** Classify a short clip in one answer; throws Fault, or AbortError. */
export function classifyClip(clip, options, signal) {
  const headers = { "Content-Type": mediaType(clip) };
  return asked(classifyPath(options), { method: "POST", body: clip, headers, signal });
}

/** Whether the server answers at all. */
export async function isReachable() {
  try {
    await fetch("livez", { cache: "no-store" });
    return true;
  } catch {
    return false;
  }
}

async function asked(path, init) {
  let response;
  try {
    response = await fetch(path, { ...init, headers: { ...init.headers, ...keyHeaders() } });
    if (response.ok) return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (response)
      throw new Fault("The server's answer could not be read.", { status: response.status });
    throw new Fault(OUT_OF_REACH);
  }
  const text = await response.text().catch(() => "");
  throw faultOf(response.status, text, (name) => response.headers.get(name));
}

/**
 * Send a video and read the answers as they come.
 *
 * XMLHttpRequest, because fetch tells nothing about how much has been sent.
 *
 * @param {File} file
 * @param {object} options see classifyPath.
 * @param {{sent: Function, waiting: Function, event: Function}} on sent(share of the upload in
 *   0..1), waiting() when all is sent, event(name, data) for each event but errors.
 * @returns {{done: Promise<void>, cancel: Function}} done rejects with Fault, or AbortError.
 */
export function classifyVideo(file, options, on) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    let seen = 0;
    let ended = false;
    const events = new EventReader((name, data) => {
      if (name === "error") {
        reject(faultOfObject(data, 200, null));
        request.abort();
        return;
      }
      ended ||= name === "end";
      on.event(name, data);
    });
    const read = () => {
      const text = request.responseText;
      try {
        events.push(text.slice(seen));
      } catch {
        reject(new Fault("The server's answer could not be read.", { status: request.status }));
        request.abort();
      }
      seen = text.length;
    };
    request.open("POST", classifyPath({ ...options, stream: true, timeline: true }));
    request.setRequestHeader("Content-Type", mediaType(file));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => on.sent(event.total ? event.loaded / event.total : 1);
    request.upload.onload = () => on.waiting();
    request.onprogress = () => {
      if (request.status === 200) read();
    };
    request.onload = () => {
      if (request.status !== 200) {
        const header = (name) => request.getResponseHeader(name);
        reject(faultOf(request.status, request.responseText, header));
        return;
      }
      read();
      if (ended) resolve();
      else reject(new Fault(CUT_OFF, { status: request.status }));
    };
    request.onerror = () => {
      const { status } = request;
      reject(new Fault(status ? CUT_OFF : OUT_OF_REACH, { status, isCutOff: !status }));
    };
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.send(file);
  });
  return { done, cancel: () => request.abort() };
}

/** Reads server-sent events (HTML standard, 9.2.6) from text that comes in pieces. */
export class EventReader {
  #rest = "";
  #onEvent;

  /** @param {(name: string, data: object) => void} onEvent */
  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  push(piece) {
    const text = this.#rest + piece;
    // The other half of a line's end may still be on its way.
    const half = text.endsWith("\r") ? 1 : 0;
    const blocks = text
      .slice(0, text.length - half)
      .replace(/\r\n?/g, "\n")
      .split("\n\n");
    this.#rest = blocks.pop() + text.slice(text.length - half);
    for (const block of blocks) this.#take(block);
  }

  #take(block) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line);
      if (field === "event") name = value;
      if (field === "data") data.push(value);
    }
    if (data.length) this.#onEvent(name, JSON.parse(data.join("\n")));
  }
}

function keyHeaders() {
  const key = apiKey.get();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function faultOf(status, text, header) {
  const seconds = Number.parseFloat(header("Retry-After"));
  const retrySeconds = Number.isFinite(seconds) ? seconds : null;
  let object = null;
  try {
    object = JSON.parse(text);
  } catch {
    // Not our server's words: a proxy in between answered.
  }
  return faultOfObject(object, status, retrySeconds);
}

function faultOfObject(object, status, retrySeconds) {
  const { error, code, request_id: requestId } = object ?? {};
  let words = `The server answered with status ${status} and gave no reason.`;
  if (status === 413) words = "The video is larger than the server takes.";
  if (typeof error === "string") words = sentence(error);
  return new Fault(words, { code, status, retrySeconds, requestId });
}

function sentence(words) {
  const text = words.trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
