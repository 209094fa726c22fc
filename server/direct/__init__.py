"""Generating requests, answered without the ASGI cycle.

Most of what a short request costs is system calls and the layers between the socket and its
handler, so `POST` on the paths of `Desk.handlers` goes a way of its own: uvicorn's parser feeds
`GatewayProtocol`, which hands the request to the `Desk`; its handler runs at once, without a task
unless it has to wait, and answers through a `Reply` that writes to the transport, head and body in
one call. Everything else is uvicorn's: parsing, keep-alive, pipelining, shutdown, and every other
path, which goes to the ASGI app as ever.
"""
