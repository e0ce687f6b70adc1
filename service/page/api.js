// Requests to the service. All addresses are relative, so that the page works under a prefix.

const OFFLINE = "The service cannot be reached. Check that it runs and that you are online.";

let key = ""; // in memory only

export function setKey(value) {
  key = value;
}

/** A refusal, with the service's own sentence; status 0 if there was no answer. */
export class Problem extends Error {
  constructor(status, detail, retrySeconds) {
    super(detail);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

export const loadModel = () => request("model", { cache: "no-cache" });
export const predict = (body, signal) => request("predict", { method: "POST", body, signal });
export const explain = (body, signal) => request("explain", { method: "POST", body, signal });

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, OFFLINE);
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  options.signal?.throwIfAborted();
  const detail = content?.detail ?? `The service answered with the status ${response.status} and without a sentence.`;
  throw new Problem(response.status, detail, Math.max(1, Number(response.headers.get("Retry-After")) || 1));
}
