// The ws library with Redis pub/sub; authentication and pings follow its README.
const { createServer } = require("node:http");
const { Redis } = require("ioredis");
const jwt = require("jsonwebtoken");
const { WebSocket, WebSocketServer } = require("ws");

const { JWT_SECRET, PORT, REDIS_URL } = process.env;

const publisher = new Redis(REDIS_URL);
const subscriber = publisher.duplicate();
const users = new Map();

const http = createServer((request, response) => {
  if (request.method !== "POST" || request.url !== "/publish") {
    response.writeHead(404).end();
    return;
  }
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => (body += chunk));
  request.on("end", async () => {
    const { to, type, data } = JSON.parse(body);
    const receivers = await publisher.publish(to, JSON.stringify({ channel: to, type, data }));
    response.writeHead(202, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ receivers }));
  });
});

const wss = new WebSocketServer({ noServer: true, perMessageDeflate: false });

http.on("upgrade", (request, socket, head) => {
  let claims;
  try {
    const token = (request.headers.authorization ?? "").replace(/^Bearer /, "");
    claims = jwt.verify(token, JWT_SECRET, { algorithms: ["HS256"] });
  } catch {
    socket.end("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n");
    return;
  }
  wss.handleUpgrade(request, socket, head, (ws) => wss.emit("connection", ws, claims.sub));
});

function heartbeat() {
  this.isAlive = true;
}

wss.on("connection", (ws, user) => {
  ws.isAlive = true;
  ws.on("error", console.error);
  ws.on("pong", heartbeat);
  ws.on("close", () => {
    const mine = users.get(user);
    mine.delete(ws);
    if (mine.size === 0) users.delete(user);
  });
  if (!users.has(user)) users.set(user, new Set());
  users.get(user).add(ws);
});

setInterval(() => {
  for (const ws of wss.clients) {
    if (ws.isAlive === false) {
      ws.terminate();
      continue;
    }
    ws.isAlive = false;
    ws.ping();
  }
}, Number(process.env.PING_INTERVAL ?? 25) * 1000);

function deliver(channel, message) {
  const receivers = channel === "all" ? wss.clients : (users.get(channel.slice("user:".length)) ?? []);
  for (const ws of receivers) {
    if (ws.readyState === WebSocket.OPEN) ws.send(message);
  }
}

subscriber.on("pmessage", (pattern, channel, message) => deliver(channel, message));
subscriber.psubscribe("user:*", "all").then(() => {
  http.listen({ host: "127.0.0.1", port: Number(PORT), backlog: 4096 });
});
