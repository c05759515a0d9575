// That an application's code compiles: nothing here runs.

import { connect, HeraldError, type Gap, type HeraldEvent, type State } from "../../dist/index.js";

interface Order {
  order: number;
}

const herald = connect("wss://herald.example", {
  token: async () => {
    const response = await fetch("/herald-token");
    if (response.status === 401) return null;
    if (!response.ok) throw new Error(`/herald-token: ${response.status}`);
    return (await response.json()).token;
  },
  topics: ["news.sport"],
  storage: "local",
  shared: true,
  transports: ["websocket", "sse"],
  WebSocket,
  fetch,
});
connect("/", { token: null, storage: sessionStorage });
connect(new URL("ws://h"), { token: () => null, storage: { getItem: () => null, setItem() {} } });
// @ts-expect-error: no such transport
connect("/", { transports: ["pigeon"] });
// @ts-expect-error: it could be asked for one token only
connect("/", { token: Promise.resolve("t") });
// @ts-expect-error: that is neither a token nor null
connect("/", { token: () => undefined });
// @ts-expect-error: no such option
connect("/", { tokens: "t" });

const off: () => void = herald.on<Order>("order.shipped", (event) => event.data.order.toFixed());
herald.on("*", async (event: HeraldEvent) => {
  // @ts-expect-error: nobody knows what it is
  event.data.order;
});
herald.onGap(({ channel, from, to }: Gap) => [channel, from, to]);
herald.onError((error) => error instanceof HeraldError && error.code);
herald.onState((state) => show(state));
off();

function show(state: State): string {
  switch (state.name) {
    case "connecting":
      return "…";
    case "live":
      return `${state.user} by ${state.transport}`;
    case "waiting":
      return `${state.why}, ${state.until - Date.now()} ms`;
    case "closed":
      return `${state.why} ${state.code ?? ""}`;
  }
}

export async function loop(): Promise<void> {
  for await (const event of herald) event.id satisfies string;
  herald.subscribe("news.art", "5-3");
  herald.unsubscribe("news.art");
  herald.positions["all"] satisfies string | undefined;
  herald.state satisfies State;
  herald.close();
}
