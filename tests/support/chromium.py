"""A real headless Chromium, driven over its DevTools protocol: what pages do, log, and ask the net for."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
]


def find() -> str | None:
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Page:
    """One tab. Of the page that is open, `console` has errors, warnings and what scripts write there, `requests` the
    urls asked for that are not data: or file:."""

    def __init__(self, profile: Path) -> None:
        program = find()
        assert program, "the caller has looked for it"
        options = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port_file.exists() or port_file.read_text().count("\n") < 1:
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.1)
        self._port = int(port_file.read_text().split("\n")[0])
        self._number = 0
        self.console: list[str] = []
        self.requests: list[str] = []
        self._loaded = threading.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._await(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _await(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _connect(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{self._port}/json") as answer:
            tabs = await answer.json()
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
                continue
            event, about = content["method"], content["params"]
            if event == "Page.loadEventFired":
                self._loaded.set()
            elif event == "Runtime.exceptionThrown":
                self.console.append(str(about["exceptionDetails"]))
            elif event == "Runtime.consoleAPICalled":
                self.console.append(str(about["args"]))
            elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                self.console.append(about["entry"]["text"])
            elif event == "Network.requestWillBeSent":
                url = about["request"]["url"]
                if not url.startswith(("data:", "file:", "about:")):
                    self.requests.append(url)

    async def _send(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        future = self._answers[self._number] = self._loop.create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        return await future

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = self._await(self._send(method, parameters))
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, path: Path) -> None:
        self.open_url(path.absolute().as_uri())

    def open_url(self, url: str) -> None:
        self.console.clear()
        self.requests.clear()
        self._loaded.clear()
        self.call("Page.navigate", url=url)
        assert self._loaded.wait(60), "the page did not load"

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression (promises are awaited)."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of an element."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, selector: str, dx: float, dy: float) -> None:
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx, y=y + dy, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + dx, y=y + dy, button="left", clickCount=1)

    def wheel(self, selector: str, delta: float) -> None:
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def key(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = {"windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def _middle(self, selector: str) -> tuple[float, float]:
        found = f"document.querySelector({selector!r})"
        self.value(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({found}.getBoundingClientRect())")
        return box[0], box[1]

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window in CSS pixels, and what `prefers-color-scheme` says."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def capture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        async def leave() -> None:
            self._listener.cancel()
            await self._socket.close()
            await self._session.close()

        self._await(leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._process.terminate()
        self._process.wait(30)
