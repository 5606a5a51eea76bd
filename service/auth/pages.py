"""The pages of signing in, and the plain page that says no. They stand alone: no template, script or file is needed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape

from starlette.responses import HTMLResponse
from starlette.types import Scope

_STYLE = """
:root { color-scheme: light dark; --text: #17202a; --quiet: #52606d; --ground: #f6f7f8; --card: #fff; --line: #dde1e5;
  --accent: #0f5ea8; --on-accent: #fff; --code: #eef0f2; --wrong: #a9361a; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e9ee; --quiet: #a3afbb; --ground: #11161b; --card: #181e25;
  --line: #2c3640; --accent: #6cb0ee; --on-accent: #0b1520; --code: #202831; --wrong: #f0906f; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 30rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 2rem; }
p.name { margin: 0 0 1.5rem; color: var(--quiet); font-weight: 600; letter-spacing: .02em; }
h1 { margin: 0 0 .75rem; font-size: 1.35rem; line-height: 1.3; font-weight: 600; }
p { margin: 0 0 1rem; }
p:last-child { margin-bottom: 0; }
.quiet { color: var(--quiet); font-size: .9rem; }
.wrong { border-left: 3px solid var(--wrong); padding-left: .75rem; }
code { font: .9em ui-monospace, monospace; background: var(--code); padding: .15em .35em; border-radius: 4px; }
pre { margin: 0 0 1rem; padding: .75rem; background: var(--code); border-radius: 6px; overflow-x: auto; }
pre code { padding: 0; background: none; }
label { display: block; margin-bottom: .35rem; font-weight: 600; }
input[type=text] { width: 100%; font: .9rem ui-monospace, monospace; padding: .6rem .7rem; border-radius: 6px;
  border: 1px solid var(--line); background: transparent; color: inherit; margin-bottom: .75rem; }
button { font: inherit; font-weight: 600; padding: .6rem 1.2rem; border: 0; border-radius: 6px; cursor: pointer;
  background: var(--accent); color: var(--on-accent); margin-bottom: 1rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HOW = """
<p class="quiet">Every start of the server prints a sign-in link. For another one, run this where the server runs:</p>
<pre><code>fusetune token login</code></pre>
<p class="quiet">A link works once. Programs use a token instead: <code>fusetune token create NAME</code>.</p>
"""


def sign_in(action: str, code: str, *, wrong: bool = False) -> HTMLResponse:
    """The page of GET /login: with a code one button, without one a field for it and how to get one.

    The code is only redeemed by the POST behind the button, so that whoever looks at a link before its owner does (a
    chat's preview, a mail scanner) does not use it up.
    """
    if code and not wrong:
        body = f"""<h1>Sign in to this server</h1>
<p>The link is good for one browser, and for a while. Go on in this one?</p>
<form method="post" action="{escape(action)}"><input type="hidden" name="code" value="{escape(code)}">
<button autofocus>Sign in</button></form>
<p class="quiet">This browser stays signed in for two weeks after its last visit, or until you sign out.</p>"""
        return _page("Sign in", body, 200)
    said = (
        '<p class="wrong" role="alert">This code is not valid: it was used already, or it is too old.</p>'
        if wrong
        else ""
    )
    body = f"""<h1>Sign in</h1>{said}
<form method="post" action="{escape(action)}"><label for="code">Login code</label>
<input type="text" id="code" name="code" autocomplete="off" spellcheck="false" required autofocus placeholder="fc_...">
<button>Sign in</button></form>{_HOW}"""
    return _page("Sign in", body, 403 if wrong else 200)


def notice(
    scope: Scope, title: str, body: str, *, status: int, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """A page that says one thing; ``body`` is HTML."""
    root = escape(str(scope.get("root_path", "")))
    return _page(
        title, f'<h1>{escape(title)}</h1>{body}<p><a href="{root}/">Back to the start</a></p>', status, headers
    )


def _page(title: str, body: str, status: int, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · fusetune</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body><main><p class="name">fusetune</p>{body}</main></body></html>
"""
    return HTMLResponse(text, status, {"content-security-policy": _POLICY, **(headers or {})})
