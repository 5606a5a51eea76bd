// The REST API as functions: addresses under the path prefix, the CSRF token, and problems as errors.

const root = document.documentElement.dataset.root || "";
const token = document.querySelector('meta[name="csrf-token"]')?.content || "";

/** What the service said is wrong (RFC 9457), or that it could not be reached (status 0). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The server answered ${status}.`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code || "";
    this.title = body.title || "It did not work";
    this.detail = body.detail || "";
    this.hint = body.hint || "";
    this.fault = body.fault || "service";
    this.errors = body.errors || [];
  }
}

/** The address of a path of this server. */
export function href(path) {
  return path.startsWith("/") ? root + path : path;
}

export const get = (path, options = {}) => call("GET", path, undefined, options);
export const post = (path, body, options = {}) => call("POST", path, body, options);
export const del = (path, options = {}) => call("DELETE", path, undefined, options);

async function call(method, path, body, { headers = {}, signal } = {}) {
  const all = { Accept: "application/json", ...headers };
  if (method !== "GET" && token) all["X-CSRF-Token"] = token;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(href(path), {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  const value = parse(await response.text());
  if (!response.ok) throw new Problem(response.status, value || {});
  return value;
}

/** A part of a page, as a document fragment's source. */
export async function fragment(path, { signal } = {}) {
  let response;
  try {
    response = await fetch(href(path), { headers: { Accept: "text/html" }, credentials: "same-origin", signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  const text = await response.text();
  if (!response.ok) throw new Problem(response.status, parse(text) || {});
  return text;
}

/** Send a file as the body, with its progress: fetch cannot tell how much of a body has left. */
export function upload(path, file, { onProgress = () => {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", href(path));
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (token) request.setRequestHeader("X-CSRF-Token", token);
    request.upload.onprogress = (event) => onProgress(file.size ? event.loaded / file.size : 1);
    request.onload = () => {
      const value = parse(request.responseText);
      if (request.status >= 200 && request.status < 300) resolve(value);
      else reject(new Problem(request.status, value || {}));
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function parse(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function unreachable() {
  return new Problem(0, {
    code: "unreachable",
    title: "The server does not answer",
    detail: "The request did not reach the server, or its answer did not come back.",
    hint: "Check that it still runs, then try again.",
  });
}
