/** What the page asks the server for, beside events: the endpoints of `herald dev`. */

/** An answer that says no. */
export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** What `herald dev` said of itself; see `Lent` in deeds.py. */
export let about;

/** Where the API is: for people's shells, and for this page, which may not ask another port. */
export let apiUrl;
let apiPath = "";

export async function learn() {
  about = await ask("about", {});
  const { protocol, hostname, origin } = location;
  if (about.api_port === null) {
    apiUrl = origin;
  } else {
    apiUrl = `${protocol}//${hostname}:${about.api_port}`;
    apiPath = "/dev/api";
  }
}

/** Has something done under `/dev/`. */
export async function ask(deed, body) {
  return (await post(`/dev/${deed}`, JSON.stringify(body))).answer;
}

/**
 * Publishes through the API, with its key.
 * @param {string} path `/v1/events` or `/v1/events/batch`
 * @param {string} body
 * @returns {Promise<{status: number, answer: any, took: number}>}
 */
export function publish(path, body, key = about.key) {
  return post(apiPath + path, body, key ? { authorization: `Bearer ${key}` } : {});
}

/** Publishes the same event many times; gives back the result of each. */
export async function publishMany(event, times, key = about.key) {
  const results = [];
  let status = 200;
  let took = 0;
  for (let left = times; left > 0; left -= MOST_OF_A_BATCH) {
    const events = new Array(Math.min(left, MOST_OF_A_BATCH)).fill(event).join(",");
    const done = await publish("/v1/events/batch", `{"events":[${events}]}`, key);
    results.push(...done.answer.results);
    ({ status } = done);
    took += done.took;
  }
  const refused = results.find((result) => result.problem);
  if (refused) throw new Refusal(refused.problem.status, refused.problem.detail);
  return { status, results, took };
}

const MOST_OF_A_BATCH = 5000;

async function post(path, body, headers = {}) {
  const start = performance.now();
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
      cache: "no-store",
    });
  } catch {
    throw new Refusal(0, "Herald does not answer. Is it still running in the terminal?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, answer.detail ?? `HTTP ${response.status}`);
  return { status: response.status, answer, took: performance.now() - start };
}
