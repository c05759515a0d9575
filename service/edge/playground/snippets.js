/** The same in code: lines that work as they are copied. */

import { about, apiUrl } from "./dev.js";

/** An argument for a POSIX shell. */
function quote(text) {
  return /^[A-Za-z0-9_./:=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A Python literal for what is JSON; numbers stay as they were written. */
function toPython(json) {
  const words = { true: "True", false: "False", null: "None" };
  // Strings as they are: JSON's are Python's, but for escaped slashes and pairs of surrogates.
  return json.replace(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b/g, (token) =>
    token[0] === '"' ? JSON.stringify(JSON.parse(token)) : words[token],
  );
}

const KEY_MISSING = "YOUR-API-KEY";

/**
 * Publishing what the form says.
 * @param {{to: string, type: string, data: string, id: string, ttl: string, times: number, body: string}} event
 *   `data` is JSON in one line, `body` the request's
 */
export function publishing({ to, type, data, id, ttl, times, body, key }) {
  const secret = key || KEY_MISSING;
  const loop = times > 1 ? `for i in $(seq ${times}); do ` : "";
  const done = times > 1 ? "; done" : "";
  const call = [
    `${about.command} publish --url ${apiUrl} --key ${quote(secret)}`,
    `--to ${quote(to)} --type ${quote(type)} --data ${quote(data)}`,
    ...(id ? [`--id ${quote(id)}`] : []),
    ...(ttl ? [`--ttl ${ttl}`] : []),
  ].join(" \\\n  ");
  const curl = (path, kind, body) =>
    [`curl ${apiUrl}${path}`, `-H ${quote(`Authorization: Bearer ${secret}`)}`, `-H 'Content-Type: application/${kind}'`, body].join(
      " \\\n  ",
    );
  const post =
    times > 1
      ? `yes ${quote(body)} | head -n ${times} |\n  ${curl("/v1/events/batch", "x-ndjson", "--data-binary @-")}`
      : curl("/v1/events", "json", `-d ${quote(body)}`);
  const fields = [
    `to=${JSON.stringify(to)}`,
    `type=${JSON.stringify(type)}`,
    `data=${toPython(data)}`,
    ...(id ? [`id=${JSON.stringify(id)}`] : []),
    ...(ttl ? [`ttl=${ttl}`] : []),
  ];
  const python = [
    "from herald_client import Publisher",
    "",
    `with Publisher(${JSON.stringify(apiUrl)}, ${JSON.stringify(secret)}) as publisher:`,
    times > 1
      ? `    event = dict(${fields.join(", ")})\n    publisher.publish_many([event] * ${times})`
      : `    publisher.publish(${fields.join(", ")})`,
  ].join("\n");
  const topic = to.startsWith("topic:") ? to.slice("topic:".length) : "";
  const browser = [
    'import { connect } from "herald-client";',
    "",
    `const herald = connect(${JSON.stringify(location.origin)}, {`,
    "  async token() {",
    '    const response = await fetch("/herald-token"); // of your backend: {"token": "…"}',
    "    if (response.status === 401) return null; // nobody is logged in",
    "    if (!response.ok) throw new Error(`/herald-token: ${response.status}`); // asked again later",
    "    return (await response.json()).token;",
    "  },",
    ...(topic ? [`  topics: [${JSON.stringify(topic)}],`] : []),
    "});",
    `herald.on(${JSON.stringify(type)}, (event) => console.log(event.data));`,
    "herald.onGap((gap) => location.reload());",
  ].join("\n");
  return [
    { name: "curl", text: post },
    { name: "herald", text: `${loop}${call}${done}` },
    { name: "Python", text: python },
    { name: "JavaScript", text: browser, about: "The other end: a page that receives it." },
  ];
}

/**
 * Listening as a pane does.
 * @param {{topics: string[], transport: string}} settings
 * @param {string} token
 */
export function listening({ topics, transport }, token) {
  const names = topics.filter((topic) => !topic.endsWith("*"));
  const query = names.length ? `?topics=${names.map(encodeURIComponent).join(",")}` : "";
  const list = names.map((name) => JSON.stringify(name)).join(", ");
  const { origin } = location;
  const javascript = [
    'import { connect } from "herald-client";',
    "",
    `const herald = connect(${JSON.stringify(origin)}, {`,
    `  token: ${JSON.stringify(token)},`,
    ...(list ? [`  topics: [${list}],`] : []),
    ...(transport === "sse" ? ['  transports: ["sse"],'] : []),
    "});",
    'herald.on("*", (event) => console.log(event.type, event.data));',
    "herald.onGap((gap) => location.reload());",
  ].join("\n");
  const curl = `curl -N -H ${quote(`Authorization: Bearer ${token}`)} \\\n  ${quote(`${origin}/v1/stream${query}`)}`;
  const herald = [
    `${about.command} listen --url ${origin} \\\n  --token ${token}`,
    ...names.map((name) => `--topic ${quote(name)}`),
  ].join(" \\\n  ");
  const python = [
    "from herald_client import subscribe_sync",
    "",
    `token = ${JSON.stringify(token)}`,
    `with subscribe_sync(${JSON.stringify(origin)}, token${list ? `, topics=[${list}]` : ""}, on_gap=print) as events:`,
    "    for event in events:",
    "        print(event.type, event.data)",
  ].join("\n");
  return [
    { name: "JavaScript", text: javascript },
    { name: "curl", text: curl },
    { name: "herald", text: herald },
    { name: "Python", text: python },
  ];
}
