"""Names as strangers choose them: every writer of paths and of pages is tried with all of them."""

from __future__ import annotations

PATHS = (
    "../../outside.png",
    "..",
    "../",
    "/etc/outside.png",
    "//outside.png",
    "a/../../../outside.png",
    "./../outside.png",
    ".tmp/x.png",
    ".TMP/x.png",
    "records/x.png",
    "Records/../records/x.png",
    "x" * 300 + ".png",
    "/".join(["deep" * 10] * 40) + ".png",
    "new\nline.png",
    "nul\0byte.png",
    "escape\x1b]0;title\x07.png",
    "turned\u202egnp.exe",
    "lone\udcffbyte.png",
    "",
    ".",
    "///",
)
