"""HTTP and the WebSocket handshake: from requests to the ports and the hub."""
