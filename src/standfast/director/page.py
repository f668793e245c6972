"""Metrics and one read-only page, on a loopback port.

``/metrics`` is Prometheus' text; ``/status.json`` what ``director status --json``
prints; ``/`` a page that follows ``/events`` (server-sent events), pushed at every
decision and each half second. Nothing can be changed from here. There is no
authentication: listen on loopback, or behind something that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from standfast.director.control import ControlError
from standfast.director.metrics import exposition
from standfast.director.model import parse_address

if TYPE_CHECKING:
    from standfast.director.apply import Daemon

PUSH_SECONDS = 0.5
REQUEST_SECONDS = 5.0

PAGE = """<!doctype html>
<meta charset="utf-8"><title>director</title>
<meta name="viewport" content="width=device-width">
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff} table{border-collapse:collapse;width:100%}
td,th{padding:.3rem .6rem;text-align:left;border-bottom:1px solid #ddd}
table{margin-bottom:1.5rem} #trouble{color:#b00020;font-weight:bold}
.up{color:#17692c}.down{color:#b00020}.draining,.unknown{color:#8a5a00}
.disabled{color:#666} #age{color:#666} li{color:#444}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}
td,th{border-color:#444} li{color:#bbb}.up{color:#6fcf85}.down{color:#ff7a85}}
</style>
<h1 id="name">director</h1><p><b id="role"></b> <span id="reason"></span>
<span id="age">waiting for the daemon</span><br><span id="peer"></span></p>
<p id="trouble"></p>
<table><thead><tr><th>service<th>addresses<th>served by</thead>
<tbody id="services"></tbody></table>
<table><thead><tr><th>backend<th>address<th>state<th>for<th>connections
<th>last probe</thead>
<tbody id="backends"></tbody></table><ul id="log"></ul>
<script>
const $=i=>document.getElementById(i);
function row(cells,cls){const r=document.createElement("tr");
 cells.forEach((c,i)=>{const d=document.createElement("td");d.textContent=c;
 if(cls&&i==2)d.className=cls;r.append(d)});return r}
const span=s=>s<60?Math.round(s)+" s":s<3600?Math.round(s/60)+" min":
 s<172800?Math.round(s/3600)+" h":Math.round(s/86400)+" days";
const source=new EventSource("/events");
source.onerror=()=>{$("age").textContent="the daemon does not answer"};
source.onmessage=e=>{const s=JSON.parse(e.data);$("age").textContent="";
 $("name").textContent="director "+s.name;$("role").textContent=s.role;
 $("reason").textContent="rank "+s.rank+": "+s.reason;
 $("trouble").textContent=s.trouble;
 $("peer").textContent=!s.peer?"":!s.peer.here?"the peer is silent":
  "peer: "+s.peer.role+", rank "+s.peer.rank+", table "+s.peer.agrees;
 $("services").replaceChildren(...s.services.map(v=>row([v.name,v.virtual.join(" "),
  v.serving.join(", ")||"nobody"])));
 $("backends").replaceChildren(...s.backends.map(b=>{
  const r=row([b.name,b.address,b.state,b.since?span(s.now-b.since):"",
   b.connections??"",b.words],b.state);
  r.dataset.backend=b.name;return r}));
 $("log").replaceChildren(...s.sentences.slice(-8).reverse().map(([t,w])=>{
  const l=document.createElement("li");
  l.textContent=new Date(t*1000).toLocaleTimeString()+" "+w;return l}));};
</script>
"""


async def serve_page(listen: str, daemon: Daemon) -> asyncio.Server:
    """Listen on ADDRESS:PORT until the server is closed.

    Raises:
        ControlError: the address cannot be had.
    """
    try:
        address = parse_address(listen)
        return await asyncio.start_server(
            _Page(daemon).talk, address.ip, address.port, limit=1 << 14
        )
    except (ValueError, OSError) as error:
        raise ControlError(f"cannot listen on {listen}: {error}") from None


class _Page:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request, and close."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, *_ = [*head.split("\r\n", 1)[0].split(" "), "", ""]
            if method != "GET":
                await _send(writer, "405 Method Not Allowed", "text/plain", "no\n")
            elif path == "/events":
                await self._events(writer)
            else:
                await self._plain(writer, path)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            pass  # who asked has gone, or asked nothing
        except asyncio.CancelledError:
            pass  # the daemon ends; asyncio's streams would log that as a fault
        finally:
            writer.close()

    async def _plain(self, writer: asyncio.StreamWriter, path: str) -> None:
        if path == "/":
            await _send(writer, "200 OK", "text/html; charset=utf-8", PAGE)
        elif path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            await _send(writer, "200 OK", kind, exposition(self._daemon))
        elif path == "/status.json":
            text = json.dumps(self._daemon.status())
            await _send(writer, "200 OK", "application/json", text)
        else:
            await _send(writer, "404 Not Found", "text/plain", "not here\n")

    async def _events(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_head("200 OK", "text/event-stream"))
        while True:
            text = json.dumps(self._daemon.status())
            writer.write(f"data: {text}\n\n".encode())
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUSH_SECONDS):
                    await self._daemon.changed()


def _head(status: str, kind: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    ).encode()


async def _send(
    writer: asyncio.StreamWriter, status: str, kind: str, body: str
) -> None:
    writer.write(_head(status, kind) + body.encode())
    await writer.drain()
