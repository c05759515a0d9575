// Socket.IO with its Redis adapter; events are published by a plain POST.
const { createServer } = require("node:http");
const { createAdapter } = require("@socket.io/redis-adapter");
const { Redis } = require("ioredis");
const jwt = require("jsonwebtoken");
const { Server } = require("socket.io");

const { JWT_SECRET, PORT, REDIS_URL } = process.env;

const http = createServer((request, response) => {
  if (request.method !== "POST" || request.url !== "/publish") {
    // Socket.IO answers its own path.
    if (!request.url.startsWith("/socket.io/")) response.writeHead(404).end();
    return;
  }
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => (body += chunk));
  request.on("end", () => {
    const event = JSON.parse(body);
    io.to(event.to).emit(event.type, event.data);
    response.writeHead(202, { "Content-Type": "application/json" }).end("{}");
  });
});

const publisher = new Redis(REDIS_URL);
const io = new Server(http, {
  adapter: createAdapter(publisher, publisher.duplicate()),
  perMessageDeflate: false,
  pingInterval: Number(process.env.PING_INTERVAL ?? 25) * 1000,
  serveClient: false,
  transports: ["websocket"],
});

io.use((socket, next) => {
  jwt.verify(socket.handshake.auth.token, JWT_SECRET, { algorithms: ["HS256"] }, (error, claims) => {
    if (error) return next(new Error("unauthorized"));
    socket.data.user = claims.sub;
    next();
  });
});

io.on("connection", (socket) => {
  socket.join([`user:${socket.data.user}`, "all"]);
});

http.listen({ host: "127.0.0.1", port: Number(PORT), backlog: 4096 });
